package after

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

func TestServicesThatAreKnownToWantAGPU(t *testing.T) {
	exec := func(path, argv string) []string {
		return []string{"{ path=" + path + " ; argv[]=" + argv + " ; ignore_errors=no ; start_time=[n/a] ; pid=0 }"}
	}
	for _, c := range []struct {
		id   string
		exec []string
		want bool
	}{
		{"ollama.service", nil, true},
		{"tdarr-node.service", nil, true},
		{"tdarr_server.service", nil, true},
		{"vllm@8b.service", nil, true},
		{"Jellyfin.service", nil, true},
		{"docker.service", nil, true},
		{"dockerd-clean.service", nil, false},
		{"ssh.service", exec("/usr/sbin/sshd", "/usr/sbin/sshd -D"), false},
		{"llm.service", exec("/usr/local/bin/ollama", "/usr/local/bin/ollama serve"), true},
		{"plex.service", exec("/usr/lib/plexmediaserver/Plex Media Server", "/usr/lib/plexmediaserver/Plex Media Server"), true},
		{"images.service", exec("/usr/bin/python3", "/usr/bin/python3 /opt/ComfyUI/main.py --listen"), true},
		{"app.service", exec("/usr/bin/docker", "/usr/bin/docker run --gpus all app"), true},
		{"backup.service", exec("/usr/bin/tar", "/usr/bin/tar cf /srv/x.tar /srv/ollama"), false},
	} {
		require.Equal(t, c.want, service{id: c.id, exec: c.exec}.wantsGPU(), c.id)
	}
}

func FuzzShow(f *testing.F) {
	f.Add("Id=a.service\nLoadState=loaded\nActiveState=active\nExecStart={ path=/a ; argv[]=/a b ; ignore_errors=no }\n\nId=b.service\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseShow(text) {
			s.wantsGPU()
			if isService(s.id) && strings.ContainsAny(s.id, " /\n\x1b") {
				t.Fatalf("%q", s.id)
			}
		}
	})
}

// app maps the library that the driver's link leads to, adds the version that it saw
// to a file, and stays; without a library it stays as well.
const app = `#!/usr/bin/perl
my $name = readlink("/usr/lib/x86_64-linux-gnu/libcuda.so.1") // "none";
if (open(my $f, "<", "/usr/lib/x86_64-linux-gnu/libcuda.so.1")) { syscall(9, 0, 4096, 1, 2, fileno($f), 0) > 0 or die }
open(my $seen, ">>", "/root/$ARGV[0].saw"); print $seen "$name\n"; close($seen);
exit 1 if -e "/root/fail" && $ARGV[0] eq "fails";
exit 0 if ($ARGV[1] // "") eq "fork" && fork;
sleep 1000 while 1;
`

const old, installed = "550.163.01", "580.95.05"

type guest struct {
	t *testing.T
	*lab.Container
	in *lxc.Container
}

func start(t *testing.T, spec lab.Spec) guest {
	t.Helper()
	g := guest{t, labtest.Start(t, spec), nil}
	g.open()
	return g
}

func (g *guest) open() {
	g.t.Helper()
	in, err := lxc.Open(context.Background(), g.LXCPath, g.VMID)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { in.Close() })
	g.in = in
}

func (g guest) write(name, text string) {
	g.t.Helper()
	require.NoError(g.t, os.WriteFile(filepath.Join(g.Root, name), []byte(text), 0o755))
}

func (g guest) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(g.Root, name))
	return string(text)
}

func (g guest) run(args ...string) string {
	g.t.Helper()
	out, err := g.Attach(g.t.Context(), args...)
	require.NoError(g.t, err, out)
	return out
}

// driver puts a driver in the place of the one that is there.
func (g guest) driver(version string) {
	g.t.Helper()
	dir := filepath.Join(g.Root, "usr/lib/x86_64-linux-gnu")
	was, _ := filepath.Glob(filepath.Join(dir, "libcuda.so.*"))
	for _, name := range was {
		require.NoError(g.t, os.Remove(name))
	}
	require.NoError(g.t, os.WriteFile(filepath.Join(dir, "libcuda.so."+version), make([]byte, 8192), 0o644))
	require.NoError(g.t, os.Symlink("libcuda.so."+version, filepath.Join(dir, "libcuda.so.1")))
}

// cgroup finds the container's cgroup by its init.
func (g guest) cgroup() string {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", g.in.Pid()))
	require.NoError(g.t, err)
	_, rest, _ := strings.Cut(string(text), "0::")
	at, _, _ := strings.Cut(rest, "\n")
	at = strings.TrimSuffix(at, "/init.scope")
	mount := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(mount); err != nil {
		mount = "/sys/fs/cgroup"
	}
	return filepath.Join(mount, at)
}

type lines struct{ all []string }

func (l *lines) Infof(f string, args ...any) { l.all = append(l.all, fmt.Sprintf(f, args...)) }
func (l *lines) Warnf(f string, args ...any) {
	l.all = append(l.all, "warning: "+fmt.Sprintf(f, args...))
}
func (l *lines) text() string { return strings.Join(l.all, "\n") }

func (g guest) restart(j Job) (Done, string) {
	g.t.Helper()
	var said lines
	j.VMID, j.Cgroup, j.Installed, j.Log = g.VMID, g.cgroup(), installed, &said
	d := Restart(g.t.Context(), g.in, j)
	g.t.Log(said.text())
	return d, said.text()
}

func unit(exec, more string) string {
	return "[Service]\n" + more + "ExecStart=/usr/local/bin/app " + exec + "\n"
}

func TestServicesGetTheDriverThatWasPutUnderThem(t *testing.T) {
	g := start(t, lab.Spec{VMID: 101, Systemd: true})
	require.NoError(t, g.WaitBooted(t.Context()))
	g.write("usr/local/bin/app", app)
	for name, text := range map[string]string{
		"uses": unit("uses", ""), "forks": unit("forks fork", "Type=forking\n"), "fails": unit("fails", ""),
		"ollama": unit("ollama", ""), "named": unit("named", ""), "other": "[Service]\nExecStart=/bin/sleep infinity\n",
	} {
		g.write("etc/systemd/system/"+name+".service", text)
	}

	// A first installation: nothing has a driver mapped.
	g.run("systemctl", "start", "ollama", "other", "named")
	time.Sleep(300 * time.Millisecond)
	g.driver(installed)
	d, said := g.restart(Job{})
	require.Equal(t, []string{"ollama.service"}, d.Waiting)
	require.Contains(t, said, "started before driver 580.95.05 was there: ollama.service; pve-nvidia-hook apply --restart 101 restarts them")
	require.Equal(t, "none\n", g.read("root/ollama.saw"), "it is only named")
	pid := g.run("systemctl", "show", "-p", "MainPID", "other")
	d, _ = g.restart(Job{Restart: true, Units: []string{"named.service"}})
	require.Equal(t, []string{"named.service", "ollama.service"}, d.Restarted)
	require.Empty(t, d.Failed)
	require.Equal(t, "none\nlibcuda.so."+installed+"\n", g.read("root/ollama.saw"))
	require.Equal(t, "none\nlibcuda.so."+installed+"\n", g.read("root/named.saw"))
	require.Equal(t, pid, g.run("systemctl", "show", "-p", "MainPID", "other"), "it needs no GPU")

	// An upgrade under services that run.
	g.driver(old)
	g.run("systemctl", "start", "uses", "forks", "fails")
	time.Sleep(300 * time.Millisecond)
	g.driver(installed)
	g.write("root/fail", "")
	d, said = g.restart(Job{})
	require.Contains(t, said, "warning: uses.service still uses driver 550.163.01; restart it, or the container: pct reboot 101")
	require.Len(t, d.Old, 5, "two have the first installation of the version open: %v", d.Old)
	d, said = g.restart(Job{Restart: true})
	require.Equal(t, []string{"forks.service", "named.service", "ollama.service", "uses.service"}, d.Restarted)
	require.Equal(t, []string{"fails.service did not come up again after its restart"}, d.Failed)
	require.Contains(t, said, "warning: fails.service did not come up again after its restart; see journalctl in the container")
	require.Empty(t, d.Old, "%v", d.Old)
	require.Equal(t, "libcuda.so."+old+"\nlibcuda.so."+installed+"\n", g.read("root/uses.saw"))
	require.Equal(t, "libcuda.so."+old+"\nlibcuda.so."+installed+"\n", g.read("root/forks.saw"))

	d, _ = g.restart(Job{Restart: true, Units: []string{"nowhere.service"}})
	require.Equal(t, []string{"nowhere.service cannot be restarted: there is no such unit"}, d.Failed)
}

func TestAServiceThatDoesNotEndHoldsNobodyUpForEver(t *testing.T) {
	defer func(was time.Duration) { restartLimit = was }(restartLimit)
	restartLimit = 3 * time.Second
	g := start(t, lab.Spec{VMID: 101, Systemd: true})
	require.NoError(t, g.WaitBooted(t.Context()))
	g.write("usr/local/bin/stays", "#!/usr/bin/perl\n$SIG{TERM} = 'IGNORE'; sleep 1000 while 1;\n")
	g.write("etc/systemd/system/ollama.service", "[Service]\nExecStart=/usr/local/bin/stays\nTimeoutStopSec=60\n")
	g.run("systemctl", "start", "ollama")
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	d, _ := g.restart(Job{Restart: true})
	require.Less(t, time.Since(began), 20*time.Second)
	require.Equal(t, []string{"ollama.service is still being restarted"}, d.Failed)
}

func TestWithoutSystemdARebootIsAdvised(t *testing.T) {
	g := start(t, lab.Spec{VMID: 101})
	g.driver(old)
	g.write("usr/local/bin/app", app)
	g.run("sh", "-c", "setsid /usr/local/bin/app x </dev/null >/dev/null 2>&1 & sleep 0.3")
	g.driver(installed)
	_, said := g.restart(Job{Restart: true})
	require.Regexp(t, `warning: app \(process \d+\) still uses driver 550.163.01; restart it, or the container: pct reboot 101`, said)
	g.run("sh", "-c", "p=$(cat /proc/[0-9]*/stat | grep '(app)' | cut -d' ' -f1); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done")
	_, said = g.restart(Job{Restart: true})
	require.Contains(t, said, "the container has no systemd")
}

func TestCommandsOfTheUser(t *testing.T) {
	g := start(t, lab.Spec{VMID: 101})
	g.write("root/patch.sh", "#!/bin/sh\necho \"$@\" >>/root/ran\n")
	err := Commands(t.Context(), g.in, [][]string{
		{"/root/patch.sh", "a b", "$HOME"}, {"/root/nowhere"}, {"sh", "-c", "echo no GPU >&2; exit 3"}, {"sleep", "1000"}, {"/root/patch.sh", "last"},
	}, time.Second)
	require.Equal(t, "a b $HOME\nlast\n", g.read("root/ran"))
	require.ErrorContains(t, err, "there is no /root/nowhere in the container")
	require.ErrorContains(t, err, "sh -c echo no GPU >&2; exit 3: exit status 3: no GPU")
	require.ErrorIs(t, err, lxc.ErrDeadline)
	require.NotContains(t, g.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sleep 1000")
	require.NoError(t, Commands(t.Context(), g.in, nil, time.Second))
}

func TestTheContainerRebootsFromInside(t *testing.T) {
	reboots := func(g guest) {
		t.Helper()
		first := g.in.Pid()
		require.NoError(t, Reboot(t.Context(), g.in))
		require.Eventually(t, func() bool {
			pid, err := g.Pid(context.Background())
			return err == nil && pid != first
		}, 20*time.Second, 50*time.Millisecond)
	}
	t.Run("systemd", func(t *testing.T) {
		g := start(t, lab.Spec{VMID: 101, Systemd: true})
		require.NoError(t, g.WaitBooted(t.Context()))
		reboots(g)
	})
	t.Run("application", func(t *testing.T) {
		g := start(t, lab.Spec{VMID: 102})
		err := Reboot(t.Context(), g.in)
		require.ErrorContains(t, err, "it has no reboot program")
		// What the reboot of sysvinit and busybox does when told -f: reboot(2), number 169.
		g.write("usr/local/bin/reboot", "#!/usr/bin/perl\nsyscall(169, 0xfee1dead, 672274793, 0x1234567, 0); die $!;\n")
		reboots(g)
	})
	g := start(t, lab.Spec{VMID: 103})
	require.NoError(t, g.Stop())
	require.True(t, errors.Is(Commands(t.Context(), g.in, [][]string{{"true"}, {"true"}}, time.Second), lxc.ErrNotRunning))
}

func TestTheManPageListsTheServices(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/pve-nvidia-hook.toml.5.md")
	require.NoError(t, err)
	require.Contains(t, strings.Join(strings.Fields(string(page)), " "), strings.Join(wants, ", ")+" Name any other")
}
