package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func file(t testing.TB) File {
	dir := t.TempDir()
	return File{Path: filepath.Join(dir, "hook.prom"), Lock: filepath.Join(dir, "lock"), Runs: filepath.Join(dir, "runs"), Containers: filepath.Join(dir, "lxc")}
}

func run(vmid int) Run {
	return Run{VMID: vmid, Ended: time.Unix(1700000000, 5e8), OK: true, Duration: 6 * time.Millisecond, Wanted: "580.142", Installed: "580.142"}
}

func content(t testing.TB, f File) string {
	t.Helper()
	text, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	return string(text)
}

var (
	comment = regexp.MustCompile(`^# (HELP ([a-z_]+) [^\\]+|TYPE ([a-z_]+) gauge)$`)
	sample  = regexp.MustCompile(`^([a-z_]+)\{[a-z]+="[0-9.]*"(,[a-z]+="([0-9.]*|yes|no)")*\} [0-9]+(\.[0-9]+)?$`)
)

// valid checks the exposition format: HELP, TYPE and samples of a metric stand
// together, no series twice, a newline at the end. promtool looks too.
func valid(t testing.TB, text string) {
	t.Helper()
	require.True(t, strings.HasSuffix(text, "\n"))
	now, done, series := "", map[string]bool{}, map[string]bool{}
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if m := comment.FindStringSubmatch(l); m != nil {
			if m[2] != "" {
				require.False(t, done[m[2]], l)
				now, done[m[2]] = m[2], true
				continue
			}
			require.Equal(t, now, m[3], l)
			continue
		}
		m := sample.FindStringSubmatch(l)
		require.NotNil(t, m, l)
		require.Equal(t, now, m[1], l)
		key, _, _ := strings.Cut(l, " ")
		require.False(t, series[key], l)
		series[key] = true
	}
	if tool := promtool(t); tool != "" {
		cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Empty(t, string(out))
	}
}

func TestTheFileTellsOfAllContainers(t *testing.T) {
	f := file(t)
	shared := run(101)
	shared.Shared = true
	require.NoError(t, f.Update(shared, "580.142", true))
	bad := run(100)
	bad.OK, bad.Installed = false, ""
	require.NoError(t, f.Update(bad, "", false))
	none := run(102)
	none.Wanted = ""
	require.NoError(t, f.Update(none, "", false))
	text := content(t, f)
	valid(t, text)
	require.Equal(t, `# HELP pve_nvidia_hook_last_run_timestamp_seconds When the last run on the container ended, in seconds since 1970.
# TYPE pve_nvidia_hook_last_run_timestamp_seconds gauge
pve_nvidia_hook_last_run_timestamp_seconds{vmid="100"} 1700000000.500
pve_nvidia_hook_last_run_timestamp_seconds{vmid="101"} 1700000000.500
pve_nvidia_hook_last_run_timestamp_seconds{vmid="102"} 1700000000.500
# HELP pve_nvidia_hook_last_run_success Whether the last run found or made all as it should be.
# TYPE pve_nvidia_hook_last_run_success gauge
pve_nvidia_hook_last_run_success{vmid="100"} 0
pve_nvidia_hook_last_run_success{vmid="101"} 1
pve_nvidia_hook_last_run_success{vmid="102"} 1
# HELP pve_nvidia_hook_last_run_duration_seconds How long the last run took.
# TYPE pve_nvidia_hook_last_run_duration_seconds gauge
pve_nvidia_hook_last_run_duration_seconds{vmid="100"} 0.006
pve_nvidia_hook_last_run_duration_seconds{vmid="101"} 0.006
pve_nvidia_hook_last_run_duration_seconds{vmid="102"} 0.006
# HELP pve_nvidia_hook_driver_info The driver that the container should have, the one that it has, and whether the node shares that with it.
# TYPE pve_nvidia_hook_driver_info gauge
pve_nvidia_hook_driver_info{vmid="100",wanted="580.142",installed="",shared="no"} 1
pve_nvidia_hook_driver_info{vmid="101",wanted="580.142",installed="580.142",shared="yes"} 1
# HELP pve_nvidia_hook_host_module_info The NVIDIA kernel module that is loaded.
# TYPE pve_nvidia_hook_host_module_info gauge
pve_nvidia_hook_host_module_info{version="580.142"} 1
`, text)
	info, err := os.Stat(f.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode())

	later := run(101)
	later.Wanted, later.Installed, later.Ended = "", "", time.Unix(1700000001, 0)
	require.NoError(t, f.Update(later, "", true))
	text = content(t, f)
	valid(t, text)
	require.NotContains(t, text, `driver_info{vmid="101"`, "what is told no more goes")
	require.NotContains(t, text, "version=", "the module was unloaded")
	require.Contains(t, text, `timestamp_seconds{vmid="101"} 1700000001.000`)
	require.Contains(t, text, `timestamp_seconds{vmid="100"} 1700000000.500`)
}

func TestWithoutANodeExporterNothingIsWritten(t *testing.T) {
	f := file(t)
	f.Path = filepath.Join(filepath.Dir(f.Path), "absent", "hook.prom")
	require.NoError(t, f.Update(run(101), "580.142", true))
	require.NoDirExists(t, filepath.Dir(f.Path))
	require.NoFileExists(t, f.Lock)
	require.NoError(t, File{}.Update(run(101), "580.142", true))
}

func TestContainersThatHaveGoneAreDropped(t *testing.T) {
	f := file(t)
	for _, vmid := range []int{101, 102, 103} {
		require.NoError(t, os.MkdirAll(filepath.Join(f.Runs, fmt.Sprint(vmid)), 0o700))
		require.NoError(t, f.Update(run(vmid), "580.142", true))
	}
	old := time.Now().Add(-2 * sweepAfter)
	vmids := func() []string {
		return regexp.MustCompile(`success\{vmid="([0-9]+)"`).FindAllString(content(t, f), -1)
	}
	require.NoError(t, os.Remove(filepath.Join(f.Runs, "102")))
	require.NoError(t, f.Update(run(101), "580.142", true))
	require.Len(t, vmids(), 3, "not looked for at every run")
	require.NoError(t, os.Chtimes(f.Path, old, old))
	require.NoError(t, f.Update(run(101), "580.142", true))
	require.Len(t, vmids(), 2, "no runs of 102 are kept")

	require.NoError(t, os.Mkdir(f.Containers, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(f.Containers, "101.conf"), nil, 0o644))
	require.NoError(t, os.Chtimes(f.Path, old, old))
	require.NoError(t, f.Update(run(101), "580.142", true))
	require.Len(t, vmids(), 1, "103 is on another node now")
	valid(t, content(t, f))
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	f := file(t)
	f.wait = 10 * time.Minute // it is not about time
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if err := f.Update(run(100+i), "580.142", true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	text := content(t, f)
	valid(t, text)
	require.Equal(t, 40, strings.Count(text, "last_run_success{"))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(f.Path), ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestWhatAKilledRunHasLeftGoesWithTheNext(t *testing.T) {
	f := file(t)
	left := filepath.Join(filepath.Dir(f.Path), ".hook.prom.new")
	require.NoError(t, os.WriteFile(left, []byte("# HELP pve_nvidia"), 0o600))
	require.NoError(t, f.Update(run(101), "580.142", true))
	valid(t, content(t, f))
	require.NoFileExists(t, left)
}

// The folder may belong to the exporter's user.
func TestWhatStandsThereLeadsNowhere(t *testing.T) {
	for name, plant := range map[string]func(File) error{
		"link":   func(f File) error { return os.Symlink(f.Lock+".victim", f.Path) },
		"FIFO":   func(f File) error { return syscall.Mkfifo(f.Path, 0o644) },
		"huge":   func(f File) error { return errors.Join(os.WriteFile(f.Path, nil, 0o644), os.Truncate(f.Path, 1<<40)) },
		"others": func(f File) error { return os.WriteFile(f.Path, []byte("evil{x=\"y\"} 1\nsecret\n\x00"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			f := file(t)
			require.NoError(t, os.WriteFile(f.Lock+".victim", []byte("of the host"), 0o600))
			require.NoError(t, plant(f))
			require.NoError(t, f.Update(run(101), "580.142", true))
			valid(t, content(t, f))
			require.NotContains(t, content(t, f), "evil")
			victim, err := os.ReadFile(f.Lock + ".victim")
			require.NoError(t, err)
			require.Equal(t, "of the host", string(victim))
		})
	}
}

func FuzzParse(f *testing.F) {
	n := parse(nil)
	n.runs[101], n.runs[102], n.module = lineOf(run(101)), lineOf(Run{VMID: 102}), "580.142"
	f.Add(n.text())
	f.Add([]byte(`pve_nvidia_hook_driver_info{vmid="101",wanted="580.1",installed=""} 1` + "\n" + `pve_nvidia_hook_last_run_success{vmid="101",x="1"} 1`))
	f.Add([]byte(`pve_nvidia_hook_driver_info{vmid="101",wanted="580.1",installed="",installed=""} 1`))
	f.Add([]byte(`pve_nvidia_hook_driver_info{vmid="101",wanted="580.1",installed="580.1",shared="yes"} 1`))
	f.Add([]byte(`pve_nvidia_hook_driver_info{vmid="101",wanted="580.1",installed="580.1",shared="maybe"} 1`))
	f.Fuzz(func(t *testing.T, data []byte) {
		text := parse(data).text()
		if again := parse(text).text(); !bytes.Equal(text, again) {
			t.Fatalf("%q is read as %q", text, again)
		}
		for _, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			if !comment.MatchString(l) && !sample.MatchString(l) {
				t.Fatalf("%q", l)
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	for _, containers := range []int{1, 20, 500} {
		b.Run(fmt.Sprint(containers), func(b *testing.B) {
			f := file(b)
			n := parse(nil)
			for i := range containers {
				n.runs[100+i] = lineOf(run(100 + i))
			}
			require.NoError(b, os.WriteFile(f.Path, n.text(), 0o644))
			for b.Loop() {
				require.NoError(b, f.Update(run(100), version.Driver("580.142"), true))
			}
		})
	}
}
