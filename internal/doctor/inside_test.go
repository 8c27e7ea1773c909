package doctor

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

var update = flag.Bool("update", false, "write the golden files anew")

// only runs the named checks.
func only(h hostFacts, g guestFacts, names ...string) []Finding {
	var all []Finding
	for _, c := range table() {
		if slices.Contains(names, c.name) {
			all = append(all, c.on(&h, &g)...)
		}
	}
	return all
}

// checkGuest judges a container, beside what of the host can explain its faults.
func checkGuest(h hostFacts, g guestFacts) []Finding {
	h.guests = []guestFacts{g}
	all := only(h, guestFacts{}, "kernel-module", "device-nodes")
	n := len(all)
	all = append(all, judgeGuest(h, g)...)
	fold(all)
	return all[n:]
}

// well are the facts of a host and a running container with which all is well.
func well(t *testing.T) (hostFacts, guestFacts) {
	t.Helper()
	h := hostFacts{arch: arch(t), module: module, local: "pve1", nodes: []string{"pve1"},
		kernel: host.Facts{GPUs: []uint32{0}, Majors: map[uint32][]string{195: {"nvidia"}, 511: {"nvidia-uvm"}}},
		present: []host.Node{
			{Path: "/dev/nvidia0", Major: 195, Minor: 0, IsChar: true},
			{Path: "/dev/nvidiactl", Major: 195, Minor: 255, IsChar: true},
			{Path: "/dev/nvidia-uvm", Major: 511, Minor: 0, IsChar: true},
			{Path: "/dev/nvidia-uvm-tools", Major: 511, Minor: 1, IsChar: true},
		}}
	settings, err := (&config.Config{}).For(101)
	require.NoError(t, err)
	next := pve.Section{Hostname: "web", Hookscript: pve.DefaultVolume,
		Dev: map[int]string{0: "/dev/nvidia0,mode=0666", 1: "/dev/nvidiactl,mode=0666", 2: "/dev/nvidia-uvm,mode=0666"}}
	const device = fs.ModeDevice | fs.ModeCharDevice | 0o666
	at := time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local)
	f := guestFacts{vmid: 101, name: "web", now: at, settings: settings,
		guest: &pve.Guest{VMID: 101, Node: "pve1", Conf: pve.Conf{VMID: 101, Section: next}}, live: next, next: next, state: pve.State{Hookscript: next.Hookscript, Dev: next.Dev},
		hook: script{volume: pve.DefaultVolume, file: "/x", there: true, exec: true}, hookOurs: true,
		hostHas: map[string]bool{"/dev/nvidia0": true, "/dev/nvidiactl": true, "/dev/nvidia-uvm": true},
		ran:     true, last: hook.Trace{At: at, Result: "installed"},
		inside: &insideFacts{
			nodes:  []insideNode{{"/dev/nvidia0", device, 195, 0}, {"/dev/nvidiactl", device, 195, 255}, {"/dev/nvidia-uvm", device, 511, 0}},
			found:  driver.Found{CUDA: module, NVML: module, Log: module},
			record: &record.Installed{Version: module, Verified: "nvidia-smi", At: at},
			free:   5e9,
		}}
	return h, f
}

func TestNothingIsFoundInAContainerThatIsWell(t *testing.T) {
	h, f := well(t)
	require.Empty(t, lines(checkGuest(h, f)))
}

func TestDriverThatIsSwitchedOffIsNoFault(t *testing.T) {
	h, f := well(t)
	f.settings.Wanted, f.settings.WhyNot = false, "enabled is false in x.toml:1"
	f.inside.found, f.inside.record, f.inside.nodes = driver.Found{}, nil, nil
	f.last = hook.Trace{At: f.now, Result: "failed"}
	for _, hookscript := range []string{pve.DefaultVolume, ""} {
		f.next.Hookscript, f.next.Dev = hookscript, nil
		found := checkGuest(h, f)
		require.Empty(t, lines(found))
		require.Equal(t, "no driver is wanted in this container: enabled is false in x.toml:1", found[0].What)
	}

	f.hostHas["/dev/nvidia0"], f.next.Dev = false, f.live.Dev
	require.Contains(t, lines(checkGuest(h, f)), "the container does not start", "what keeps it from starting is told")
}

func TestEachFaultInsideIsNamedWithItsFix(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*hostFacts, *guestFacts)
		want  string
	}{
		"regular file": {
			func(_ *hostFacts, f *guestFacts) { f.inside.nodes[0].mode = 0o644 },
			"problem nodes-inside: /dev/nvidia0 in the container is an ordinary file, not a device",
		},
		"link": {
			func(_ *hostFacts, f *guestFacts) { f.inside.nodes[0].mode = fs.ModeSymlink | 0o777 },
			"problem nodes-inside: /dev/nvidia0 in the container is not a device (L",
		},
		"other major": {
			func(_ *hostFacts, f *guestFacts) { f.inside.nodes[2].major = 243 },
			"problem nodes-inside: /dev/nvidia-uvm in the container has the numbers 243:0, on the host it has 511:0 | pct reboot 101",
		},
		"not there": {
			func(_ *hostFacts, f *guestFacts) { f.inside.nodes = f.inside.nodes[1:] },
			"problem nodes-inside: /dev/nvidia0 is not in the container, though dev0 passes it | pct reboot 101",
		},
		"not on the host": {
			func(h *hostFacts, _ *guestFacts) { h.present = h.present[1:] },
			"problem nodes-inside: /dev/nvidia0 is in the container but not on the host",
		},
		"nothing installed": {
			func(_ *hostFacts, f *guestFacts) { f.inside.found, f.inside.record = driver.Found{}, nil },
			"problem versions: no driver is installed, 580.142 is wanted | pve-nvidia-hook apply 101",
		},
		"older driver": {
			func(h *hostFacts, f *guestFacts) { h.module = "590.48.01" },
			"problem versions: driver 580.142 is installed, 590.48.01 is needed | pve-nvidia-hook apply 101",
		},
		"two versions": {
			func(_ *hostFacts, f *guestFacts) { f.inside.found.NVML = "550.78" },
			"problem versions: libcuda.so.1 leads to 580.142 and libnvidia-ml.so.1 to 550.78 | pve-nvidia-hook apply --force 101",
		},
		"broken-off install": {
			func(_ *hostFacts, f *guestFacts) { f.inside.found.Log = "590.48.01" },
			"problem versions: an installation of driver 590.48.01 was started over 580.142 and did not finish",
		},
		"configuration says otherwise": {
			func(_ *hostFacts, f *guestFacts) { f.settings.Driver.Version = "570.26" },
			"problem wanted-version: driver 570.26 is wanted (default), the host's kernel module is 580.142",
		},
		"no module": {
			func(h *hostFacts, _ *guestFacts) { h.module = "" },
			"unknown versions: driver 580.142 is installed; whether that is right is not known, because the wanted version is not known",
		},
		"stale record": {
			func(_ *hostFacts, f *guestFacts) { f.inside.record.Version = "550.78" },
			"problem record: its record is stale: it names driver 550.78, but 580.142 is there | pve-nvidia-hook apply 101",
		},
		"no record": {
			func(_ *hostFacts, f *guestFacts) { f.inside.record = nil },
			"warning record: driver 580.142 was not installed by this program, or not completely",
		},
		"false record": {
			func(_ *hostFacts, f *guestFacts) { f.inside.recordError = errors.New("format 9") },
			"problem record: its record is not trusted: format 9",
		},
		"file gone": {
			func(_ *hostFacts, f *guestFacts) { f.inside.differs = "the file /usr/bin/nvidia-smi is gone" },
			"problem record: it is not as driver 580.142 was installed: the file /usr/bin/nvidia-smi is gone",
		},
		"never ran nvidia-smi": {
			func(_ *hostFacts, f *guestFacts) { f.inside.record.Verified = "files" },
			"warning record: only the files of driver 580.142 have been checked",
		},
		"toolkit to come": {
			func(_ *hostFacts, f *guestFacts) {
				f.settings.CUDA.Toolkit, f.inside.toolkit = "12.8", "no toolkit is installed"
			},
			"problem toolkit: the CUDA toolkit is not as wanted: no toolkit is installed | pve-nvidia-hook apply 101",
		},
		"orphans": {
			func(_ *hostFacts, f *guestFacts) { f.inside.orphans = []string{"/a", "/b", "/c", "/d"} },
			"problem orphans: libraries of another driver version are left: /a, /b, /c and 1 more;",
		},
		"packages": {
			func(_ *hostFacts, f *guestFacts) {
				f.inside.blockers = []driver.Blocker{{Reason: "libcuda1 is installed", Hint: "purge it"}}
			},
			"problem obstacles: libcuda1 is installed | purge it",
		},
		"a node that the host's list does not have": {
			func(_ *hostFacts, f *guestFacts) {
				f.inside.nodes = append(f.inside.nodes, insideNode{"/dev/nvidia-nvswitch0", 0o644, 0, 0})
			},
			"problem nodes-inside: /dev/nvidia-nvswitch0 in the container is an ordinary file",
		},
		"full disk": {
			func(_ *hostFacts, f *guestFacts) { f.inside.free = 1e6 },
			"warning disk: its disk has 1.0 MB free | pct resize 101 rootfs +4G",
		},
		"no room for a new driver": {
			func(_ *hostFacts, f *guestFacts) { f.inside.free, f.inside.record = 3e8, nil },
			"warning disk: its disk has 300 MB free, a driver takes up to 1.0 GB",
		},
		"a run goes on": {
			func(_ *hostFacts, f *guestFacts) { f.holder = "pid 7 on pve1" },
			"warning lock: a run is active on this container, so this report may change: pid 7 on pve1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := well(t)
			c.spoil(&h, &f)
			require.Contains(t, lines(checkGuest(h, f)), c.want)
		})
	}
}

func TestAfterAFailureThereIsOneAnswer(t *testing.T) {
	h, f := well(t)
	f.inside.found, f.inside.record = driver.Found{}, nil
	f.failure = &record.Failure{Count: 1, At: f.now, Next: f.now.Add(time.Hour), Seconds: 60, Reason: "the disk is full", Hint: "make room"}
	f.last = hook.Trace{At: f.now, Result: "refused", Reason: "not tried again", Hint: "make room; then at once: pve-nvidia-hook apply 101"}
	said := lines(checkGuest(h, f))
	require.Contains(t, said, "it failed once, and the next attempt is at 2026-01-02 04:04: the disk is full | make room; then at once: pve-nvidia-hook apply 101\n", "as the hook says it")
	require.Contains(t, said, "580.142 is wanted | see last-run\n")
	require.Equal(t, 1, strings.Count(said, "pve-nvidia-hook apply"), said)

	f.failure = nil
	require.Equal(t, f.last.Hint, f.mend(), "no command twice")
	f.last.Hint = "the next start, or pve-nvidia-hook apply, does it again"
	require.Equal(t, f.last.Hint, f.mend(), "nothing has the next start wait")
	f.failure = &record.Failure{Count: 1, At: f.now, Next: f.now.Add(time.Hour), Seconds: 60, Hint: f.last.Hint}
	require.Equal(t, "pve-nvidia-hook apply 101", f.mend(), "the next start waits")

	f.failure = &record.Failure{Count: 2, At: f.now, Next: f.now.Add(time.Hour), Seconds: 14, Reason: "no network", Hint: "see to the network"}
	require.Contains(t, lines(checkGuest(h, f)), "it failed 2 times in a row, the last time at 2026-01-02 03:04: no network | see to the network; then: pve-nvidia-hook apply 101\n", "the next start tries again at once")
}

func TestFailureForAnEarlierDriverIsOver(t *testing.T) {
	h, f := well(t)
	f.failure = &record.Failure{Count: 2, At: f.now, Next: f.now.Add(time.Hour), Reason: "no network"}
	f.last = hook.Trace{At: f.now, Result: "failed", Reason: "no network", Plan: hook.Plan{Wanted: "570.86.16"}}
	require.Empty(t, lines(checkGuest(h, f)))
	f.last.Plan.Wanted = module
	require.Contains(t, lines(checkGuest(h, f)), "problem last-run: ")
}

// One that is not enabled, or not any more, lacks nothing.
func TestDisabledContainerIsToldOnlyHowToEnableIt(t *testing.T) {
	h, f := well(t)
	f.next, f.state, f.ran = pve.Section{}, pve.State{}, false
	f.guest.Conf.Pending = pve.Section{}
	f.guest.Conf.Section, f.live = pve.Section{}, pve.Section{}
	f.inside.found, f.inside.record = driver.Found{}, nil
	require.Equal(t, "101 warning hookscript: the container has no hookscript: the driver does not follow the host by itself | pve-nvidia-hook enable 101\n", lines(checkGuest(h, f)))
}

func TestRefusalForAPinnedVersionIsOneFinding(t *testing.T) {
	h, f := well(t)
	f.settings.Driver.Version = "550.163.01"
	f.inside.found, f.inside.record = driver.Found{}, nil
	f.last = hook.Trace{At: f.now, Result: "refused", Reason: "driver 550.163.01 is wanted but the host's kernel module is 580.142"}
	said := causes(checkGuest(h, f))
	require.Equal(t, 1, strings.Count(said, "\n"), said)
	require.Contains(t, said, "problem wanted-version: driver 550.163.01 is wanted")

	f.inside = nil
	require.Equal(t, said, causes(checkGuest(h, f)), "of a stopped one it is told too")
}

func TestFixOfSeveralMistakesStandsOnce(t *testing.T) {
	var out strings.Builder
	r := Report{Findings: []Finding{
		{Check: "configuration", Level: Problem, What: "a", Fix: "correct it"},
		{Check: "configuration", Level: Problem, What: "b", Fix: "correct it"},
		{Check: "cache", Level: Problem, What: "c", Fix: "correct it"},
	}, Names: map[int]string{}}
	require.NoError(t, r.Print(&out, false, false, 0))
	require.Equal(t, 2, strings.Count(out.String(), "correct it"), out.String())
}

func TestWhatIsNoFaultInside(t *testing.T) {
	h, f := well(t)
	f.inside.nodes = append(f.inside.nodes, insideNode{"/dev/nvidia-nvswitch0", fs.ModeDevice | fs.ModeCharDevice | 0o666, 240, 0})
	f.next.Dev = map[int]string{0: "/dev/nvidia0,mode=0666", 1: "/dev/nvidiactl,mode=0666", 2: "/dev/nvidia-uvm,mode=0666", 3: "/dev/nvidia-modeset,mode=0666"}
	f.hostHas["/dev/nvidia-modeset"] = true
	require.Empty(t, lines(checkGuest(h, f)), "a node that comes with the next start is not missing now")
}

func TestWhatTheHookWouldLeaveAloneIsNoFault(t *testing.T) {
	h, f := well(t)
	f.inside.record.Verified, f.settings.GPUs = "files", "none"
	require.Empty(t, lines(only(h, f, "record")), "without a GPU nvidia-smi is never asked")
	f.settings.GPUs, f.settings.Driver.Version = "all", "590.48.01"
	require.Empty(t, lines(only(h, f, "record")), "nor ahead of the host's module")
	f.inside.toolkit = "no toolkit is wanted any more"
	require.Empty(t, lines(only(h, f, "toolkit")), "it stays until uninstall")
}

// An empty folder in the place of a mount passes for a cache in which nothing is yet.
func TestACacheOnAStorageThatIsNotMountedIsToldOf(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/pve"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/storage.cfg"), []byte("nfs: nas\n\texport /x\n\tserver nas\n"), 0o640))
	s := config.Settings{}
	s.Cache.Dir = "/mnt/pve/nas/cache"
	h, _ := well(t)
	h.cache = lookCache(root, s)
	found := lines(only(h, guestFacts{}, "cache", "cache-files"))
	require.Contains(t, found, "problem cache: use /mnt/pve/nas/cache: storage nas is not mounted at "+root+"/mnt/pve/nas")
}

// A report with each level, of a host and two containers.
func sample(t *testing.T) Report {
	h, f := well(t)
	f.inside.nodes[0].mode = 0o644
	f.inside.free = 1e6
	_, other := well(t)
	other.inside, other.insideError, other.name = nil, lxc.ErrNotRunning, ""
	h.modules, h.guests = []string{"nvidia"}, []guestFacts{f, other}
	all := only(h, guestFacts{}, "nouveau", "kernel-module")
	h.present = h.present[1:]
	all = append(all, only(h, guestFacts{}, "device-nodes")...)
	for i := range h.guests {
		h.guests[i].vmid = 101 + i
		h.guests[i].hostHas = map[string]bool{"/dev/nvidia0": i == 0, "/dev/nvidiactl": true, "/dev/nvidia-uvm": true}
		all = append(all, judgeGuest(h, h.guests[i])...)
	}
	fold(all)
	return Report{all, map[int]string{0: "pve1", 101: "web"}}
}

func TestReportsLookLikeThis(t *testing.T) {
	r := sample(t)
	for name, print := range map[string]func(*bytes.Buffer) error{
		"short.txt":   func(b *bytes.Buffer) error { return r.Print(b, false, false, 0) },
		"verbose.txt": func(b *bytes.Buffer) error { return r.Print(b, true, false, 0) },
		"narrow.txt":  func(b *bytes.Buffer) error { return r.Print(b, true, false, 80) },
		"colour.txt":  func(b *bytes.Buffer) error { return r.Print(b, false, true, 0) },
		"report.json": func(b *bytes.Buffer) error { return say.JSON(b, r.Findings) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.NoError(t, print(&b))
			golden := filepath.Join("testdata", name)
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, b.Bytes(), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), b.String(), "go test ./internal/doctor -update writes it anew")
		})
	}
}

func TestFixesAreThoseThatCanWork(t *testing.T) {
	h, f := well(t)
	h.module, f.settings.Driver.Version = "", module
	f.inside.found, f.inside.record, f.inside.differs = driver.Found{}, nil, ""
	require.Contains(t, lines(checkGuest(h, f)), "versions: no driver is installed, 580.142 is wanted | see kernel-module of the host\n", "a run would be refused")
	f.settings.Driver.OnMismatch = "install"
	require.Contains(t, lines(checkGuest(h, f)), "580.142 is wanted | pve-nvidia-hook apply 101\n")

	h, f = well(t)
	h.pveError, f.guest, f.insideError, f.inside = pve.ErrNoNode, nil, lxc.ErrUnknown, nil
	require.Contains(t, lines(checkGuest(h, f)), "there is no container 101 below /var/lib/lxc | pct list\n")
}
