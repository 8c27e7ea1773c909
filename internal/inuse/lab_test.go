package inuse

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// app maps the library that the driver's link leads to, as a program that uses
// CUDA does, notes that in a file, and stays. With "fork" a child of it does so.
const app = `#!/usr/bin/perl
exit 0 if ($ARGV[0] // "") eq "fork" && fork;
open(my $f, "<", "/usr/lib/x86_64-linux-gnu/libcuda.so.1") or die;
syscall(9, 0, 4096, 1, 2, fileno($f), 0) > 0 or die;
open(N, ">>", "/run/ready") and syswrite(N, "x");
sleep 1000 while 1;
`

const old, installed = "550.163.01", "580.95.05"

// put makes the library of a version and the link to it.
func put(t *testing.T, c *lab.Container, version string) {
	t.Helper()
	dir := filepath.Join(c.Root, "usr/lib/x86_64-linux-gnu")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "libcuda.so."+version), make([]byte, 8192), 0o644))
	link := filepath.Join(dir, "libcuda.so.1")
	require.NoError(t, os.RemoveAll(link))
	require.NoError(t, os.Symlink("libcuda.so."+version, link))
}

// ready waits until so many programs have noted that they use the driver.
func ready(t *testing.T, c *lab.Container, programs int) {
	t.Helper()
	require.Eventually(t, func() bool {
		out, _ := c.Attach(t.Context(), "cat", "/run/ready")
		return len(strings.TrimSpace(out)) == programs
	}, time.Minute, 50*time.Millisecond)
}

func program(t *testing.T, c *lab.Container, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(c.Root, name), []byte(text), 0o755))
}

// cgroupOf finds the container's cgroup by its init.
func cgroupOf(t *testing.T, c *lab.Container) string {
	t.Helper()
	pid, err := c.Pid(context.Background())
	require.NoError(t, err)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "0::")
	require.True(t, ok)
	at, _, _ := strings.Cut(rest, "\n")
	at = strings.TrimSuffix(at, "/init.scope")
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(mount, at, "cgroup.procs")); err == nil {
			return filepath.Join(mount, at)
		}
	}
	t.Fatal("no cgroup of version 2")
	return ""
}

func names(holders []Holder) []string {
	var all []string
	for _, h := range holders {
		all = append(all, h.String())
	}
	return all
}

func unit(exec string) string {
	return "[Service]\nExecStart=" + exec + "\n"
}

func TestUnitsWithAnOldDriverAreNamed(t *testing.T) {
	c := labtest.Start(t, lab.Spec{VMID: 101, Systemd: true})
	ctx := t.Context()
	require.NoError(t, c.WaitBooted(ctx))
	put(t, c, old)
	program(t, c, "usr/local/bin/app", app)
	program(t, c, "etc/systemd/system/app.service", unit("/usr/local/bin/app"))
	program(t, c, "etc/systemd/system/forks.service", "[Service]\nType=forking\nExecStart=/usr/local/bin/app fork\n")
	program(t, c, "etc/systemd/system/other.service", unit("/bin/sleep infinity"))
	// One that only has a device open, of whose name a plain file must do here.
	program(t, c, "etc/systemd/system/opens.service", unit(`/usr/bin/perl -e 'open(F, "<", "/dev/nvidiactl") or die; open(N, ">>", "/run/ready") and syswrite(N, "x"); sleep 1000'`))
	attach := func(args ...string) {
		t.Helper()
		out, err := c.Attach(ctx, args...)
		require.NoError(t, err, out)
	}
	attach("touch", "/dev/nvidiactl")
	attach("systemctl", "start", "app", "forks", "other", "opens")
	attach("sh", "-c", "setsid /usr/local/bin/app </dev/null >/dev/null 2>&1 &")
	ready(t, c, 4)
	group := cgroupOf(t, c)

	look := func() Use {
		t.Helper()
		var u Use
		var err error
		// On a busy node a process may not answer in time.
		require.Eventually(t, func() bool {
			u, err = Look(ctx, group, installed)
			return err != nil || u.Partial == ""
		}, time.Minute, 100*time.Millisecond)
		require.NoError(t, err)
		return u
	}
	u := look()
	require.Len(t, u.Holders, 4, "%v", u.Holders)
	require.Regexp(t, `^app \(process \d+\) still uses driver 550\.163\.01$`, names(u.Old())[0])
	require.Contains(t, names(u.Old()), "app.service still uses driver 550.163.01")
	require.Contains(t, names(u.Old()), "forks.service still uses driver 550.163.01")
	require.Equal(t, "opens.service has /dev/nvidiactl open", u.Holders[3].String())

	// The host was upgraded: the old library is gone, as after an installation.
	require.NoError(t, os.Remove(filepath.Join(c.Root, "usr/lib/x86_64-linux-gnu/libcuda.so."+old)))
	put(t, c, installed)
	require.Len(t, look().Old(), 3)
	attach("systemctl", "restart", "app", "forks")
	ready(t, c, 6)
	u = look()
	require.Len(t, u.Old(), 1, "%v", u.Holders)
	require.Empty(t, u.Old()[0].Restartable())

	// The same version installed again.
	lib := filepath.Join(c.Root, "usr/lib/x86_64-linux-gnu/libcuda.so."+installed)
	require.NoError(t, os.Remove(lib))
	require.Contains(t, names(look().Old()), "app.service still uses files of the driver that were replaced")

	require.NoError(t, c.Stop())
	_, err := Look(ctx, group, installed)
	require.Error(t, err)
}

// many forks until it is told to end; each process has a name of its own, and
// maps files whose names lie.
const many = `#!/usr/bin/perl
my $line = "x\n00400000-00401000 r-xp 00000000 fe:00 1 ";
mkdir "/root/$line";
for my $name ("libcuda.so.550.163.01 (deleted)", "$line/libcuda.so.535.1\nx",
	"libcuda.so.99999.1", "libcuda.so.551.\e[2J", "x" x 250) {
	open(my $f, "+>", "/root/$name") or die "$name: $!";
	syswrite($f, "x" x 4096);
	syscall(9, 0, 4096, 1, 2, fileno($f), 0) > 0 or die;
}
for my $n (1 .. $ARGV[0]) {
	if (!fork) {
		open(my $c, ">", "/proc/self/comm");
		print $c "n$n\n\e[2J";
		close($c);
		sleep 1000 while 1;
	}
}
open(my $done, ">", "/root/done");
sleep 1000 while 1;
`

func TestTenThousandProcessesThatLie(t *testing.T) {
	c := labtest.Start(t, lab.Spec{VMID: 101})
	ctx := t.Context()
	program(t, c, "usr/local/bin/many", many)
	_, err := c.Attach(ctx, "sh", "-c", "setsid /usr/local/bin/many 10000 </dev/null >/root/log 2>&1 &")
	require.NoError(t, err)
	for ends := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		said, _ := os.ReadFile(filepath.Join(c.Root, "root/log"))
		require.Empty(t, string(said))
		require.True(t, time.Now().Before(ends))
		if _, err := os.Stat(filepath.Join(c.Root, "root/done")); err == nil {
			break
		}
	}
	began := time.Now()
	u, err := Look(ctx, cgroupOf(t, c), installed)
	took := time.Since(began)
	require.NoError(t, err)
	t.Logf("%d processes in %s: %s", u.Looked, took, u.Partial)
	require.Less(t, took, lookLimit+2*time.Second)
	require.LessOrEqual(t, len(u.Holders), maxHolders)
	require.NotEmpty(t, u.Partial, "that not all are told apart is said")
	for _, h := range u.Holders {
		require.NotContains(t, h.String(), "\x1b")
		require.NotContains(t, h.String(), "\n")
		require.NotContains(t, h.String(), "535.1", "a line in a name is no line")
	}
}

func TestDeepAndManyCgroupsEnd(t *testing.T) {
	c := labtest.Start(t, lab.Spec{VMID: 101, Systemd: true})
	ctx := t.Context()
	require.NoError(t, c.WaitBooted(ctx))
	out, err := c.Attach(ctx, "sh", "-c", `cd /sys/fs/cgroup && [ -d unified ] && cd unified
		for i in $(seq 40); do mkdir -p deep/$i && cd deep/$i; done; cd /sys/fs/cgroup; [ -d unified ] && cd unified; mkdir wide && cd wide && mkdir $(seq 2000)`)
	require.NoError(t, err, out)
	began := time.Now()
	u, err := Look(ctx, cgroupOf(t, c), installed)
	require.NoError(t, err)
	require.Contains(t, u.Partial, "deeper")
	require.Positive(t, u.Looked)
	t.Log(time.Since(began))
}

func TestAProcessStuckInExecHoldsNobodyUp(t *testing.T) {
	c := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
	ctx := t.Context()
	put(t, c, old)
	program(t, c, "usr/local/bin/app", app)
	require.NoError(t, c.WedgeReads(ctx, "/srv/stuck"))
	out, err := c.Attach(ctx, "sh", "-c", `for i in $(seq 30); do setsid sh -c 'exec /srv/stuck/prog' </dev/null >/dev/null 2>&1 & done
		setsid /usr/local/bin/app </dev/null >/dev/null 2>&1 & sleep 0.5`)
	require.NoError(t, err, out)
	began := time.Now()
	u, err := Look(ctx, cgroupOf(t, c), installed)
	require.NoError(t, err)
	t.Log(time.Since(began), u)
	require.Less(t, time.Since(began), lookLimit)
	require.Len(t, u.Old(), 1)
	require.Contains(t, u.Old()[0].String(), "app (process ")
}
