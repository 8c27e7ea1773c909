package hook_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// failsThenHeals expects that the hook fails with the words wanted and a hint,
// and that it succeeds once the cause is gone.
func (g *guest) failsThenHeals(wanted string, mend func()) {
	g.node.t.Helper()
	t := g.node.t
	said := g.postStart(1)
	require.Contains(t, said, wanted)
	require.Contains(t, said, "hint: ")
	harmless(t, said)
	mend()
	g.heals()
}

// tmpfs mounts a small disk on the host and returns the folder.
func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, options))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestFaultCacheDiskIsFull(t *testing.T) {
	n := newNode(t, newer)
	tmpfs(t, n.Cache(), "mode=0755,size=2m")
	g := n.start(lab.Spec{})
	g.failsThenHeals("needs", func() {
		require.NoError(t, unix.Mount("none", n.Cache(), "tmpfs", unix.MS_REMOUNT, "size=200m"))
	})
	require.NoFileExists(t, filepath.Join(n.Cache(), "NVIDIA-Linux-x86_64-"+newer+".run.part"))
}

func TestFaultCacheDiskFillsUpMeanwhile(t *testing.T) {
	n := newNode(t, newer)
	n.Mirror.Rate = 2 << 20
	tmpfs(t, n.Cache(), "mode=0755,size=200m")
	g := n.start(lab.Spec{})
	fill := n.Path("cache/fill")
	go func() {
		for range 1000 {
			if parts, _ := filepath.Glob(n.Path("cache/*.part")); len(parts) > 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		_ = exec.Command("dd", "if=/dev/zero", "of="+fill, "bs=1M").Run() // until the disk is full
	}()
	g.failsThenHeals("no room in the cache folder", func() { require.NoError(t, os.Remove(fill)) })
}

func TestFaultCacheIsReadOnlyOrCannotBeMade(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	tmpfs(t, n.Path("disk"), "mode=0755")
	text, err := os.ReadFile(n.Path("config.toml"))
	require.NoError(t, err)
	readOnly := func(flags uintptr) {
		require.NoError(t, unix.Mount("none", n.Path("disk"), "tmpfs", unix.MS_REMOUNT|flags, ""))
	}
	moved := strings.Replace(string(text), n.Cache(), n.Path("disk/cache"), 1)
	require.NoError(t, os.WriteFile(n.Path("config.toml"), []byte(moved), 0o644))
	readOnly(unix.MS_RDONLY)
	g.failsThenHeals("cache folder "+n.Path("disk/cache")+": mkdir ", func() { readOnly(0) })

	// What a read-only cache holds is used; what it lacks is refused.
	readOnly(unix.MS_RDONLY)
	said, code := g.anyhow("--force")
	require.Zero(t, code, said)
	require.NoError(t, n.Module(older))
	require.Contains(t, g.postStart(1), "cannot be written")
	readOnly(0)
}

func TestFaultContainerDiskFillsUpMeanwhile(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{SizeLimit: 110 << 20})
	g.sh("echo slow=0.02 >/etc/sample-nvidia-installer")
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		for range 1000 {
			if _, err := os.Stat(g.file("var/lib/nvidia/log")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = g.Attach(ctx, "dd", "if=/dev/zero", "of=/fill", "bs=1M") // until the disk is full
	}()
	g.failsThenHeals("failed with exit status 135", func() {
		<-filled
		g.sh("rm /fill /etc/sample-nvidia-installer")
	})
}

func TestFaultRootIsReadOnly(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	g.sh("mount -o remount,bind,ro /")
	g.failsThenHeals("read-only file system", func() { g.sh("mount -o remount,bind,rw /") })
}

func TestFaultUsrIsReadOnly(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	g.sh("mount --bind /usr /usr && mount -o remount,bind,ro /usr")
	g.failsThenHeals("driver "+newer+" is not", func() { g.sh("umount -l /usr") })
}

func TestFaultLittleMemoryIsEnough(t *testing.T) {
	n := newNode(t, newer)
	for i, deliver := range []string{"mount", "push"} {
		n.configure("[install]\ndeliver = \"" + deliver + "\"\n")
		g := n.start(lab.Spec{VMID: 101 + i, MemoryLimit: 256 << 20})
		g.postStart(0)
		g.holds(newer)
	}
}

// The container goes away while its installer works. The hook ends soon, says
// why, leaves nothing, and the next start puts all right.
func TestFaultContainerGoesAway(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"4s\"\n")
	for i, c := range []struct {
		name string
		away func(g *guest) error
		back func(g *guest) error
		said string
	}{
		{"stopped", (*guest).stopped, (*guest).started, "container"},
		{"its init is killed", func(g *guest) error {
			pid, err := g.Pid(context.Background())
			if err != nil {
				return err
			}
			return unix.Kill(pid, unix.SIGKILL)
		}, (*guest).started, "container"},
		{"frozen", func(g *guest) error { return g.lxc("lxc-freeze") }, func(g *guest) error { return g.lxc("lxc-unfreeze") }, "the container is frozen"},
		{"rebooted from inside", func(g *guest) error {
			_ = g.lxc("lxc-attach", "--", "perl", "-e", "syscall(169, 0xfee1dead, 672274793, 0x1234567, 0)") // reboot(2); ends with the container
			return nil
		}, func(g *guest) error { return g.lxc("lxc-wait", "-s", "RUNNING", "-t", "20") }, "container"},
		{"destroyed", (*guest).Close, nil, "container"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := n.start(lab.Spec{VMID: 500 + i, Privileged: i%2 == 1})
			g.sh("echo slow=0.3 >/etc/sample-nvidia-installer")
			cmd := n.Command(t.Context(), strconv.Itoa(g.VMID), "post-start")
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool {
				_, err := os.Stat(g.file("var/lib/nvidia/log"))
				return err == nil
			}, 30*time.Second, 5*time.Millisecond)
			began := time.Now()
			require.NoError(t, c.away(g))
			_ = cmd.Wait() // exit status 1
			require.Less(t, time.Since(began), 15*time.Second, said.String())
			require.Equal(t, 1, cmd.ProcessState.ExitCode(), said.String())
			require.Contains(t, said.String(), c.said)
			require.Contains(t, said.String(), "hint: ")
			require.NotContains(t, said.String(), "panic")
			if c.back == nil {
				return
			}
			require.NoError(t, c.back(g), said.String())
			require.NoFileExists(t, g.file("var/lib/pve-nvidia-hook/installed.json"))
			g.sh("rm -f /etc/sample-nvidia-installer")
			g.heals()
		})
	}
}

func (g *guest) stopped() error { return g.Stop() }

func (g *guest) started() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = g.lxc("lxc-wait", "-s", "STOPPED", "-t", "20") // Start says what is wrong
	return g.Start(ctx)
}

// lxc runs one of LXC's programs for the container.
func (g *guest) lxc(program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-P", g.LXCPath, "-n", strconv.Itoa(g.VMID)}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// Whatever the umask of the caller is, what the hook leaves on the host has the
// modes that keep others from changing what root runs and from reading traces.
func TestPermissionOfAllThatTheHookLeavesOnTheHost(t *testing.T) {
	for _, umask := range []string{"000", "077"} {
		t.Run("umask "+umask, func(t *testing.T) {
			n := newNode(t, newer)
			g := n.start(lab.Spec{})
			cmd := n.Command(t.Context(), strconv.Itoa(g.VMID), "post-start")
			cmd.Args = []string{"sh", "-c", "umask " + umask + `; exec "$0" "$@"`, cmd.Path, cmd.Args[1], cmd.Args[2]}
			cmd.Path = "/bin/sh"
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			g.holds(newer)
			modes := map[string]fs.FileMode{}
			for _, top := range []string{"state", "run", "cache"} {
				require.NoError(t, filepath.WalkDir(n.Path(top), func(name string, d fs.DirEntry, err error) error {
					if err != nil {
						return err
					}
					info, err := d.Info()
					if err != nil {
						return err
					}
					modes[strings.TrimPrefix(name, n.Dir+"/")] = info.Mode()
					switch {
					case top == "state" && d.IsDir():
						require.EqualValues(t, 0o700, info.Mode().Perm(), name)
					case top == "state":
						require.EqualValues(t, 0o600, info.Mode().Perm(), name)
					case d.IsDir():
						require.EqualValues(t, 0o755, info.Mode().Perm(), name)
					case info.Mode()&fs.ModeSymlink == 0:
						require.Zero(t, info.Mode().Perm()&0o022, name)
						require.Zero(t, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid), name)
					}
					return nil
				}))
			}
			for name, mode := range map[string]fs.FileMode{".run": 0o644, ".json": 0o644, ".lock": 0o600} {
				require.Equal(t, mode, modes["cache/NVIDIA-Linux-x86_64-"+newer+name].Perm(), name)
			}
			require.EqualValues(t, 0o600, modes[fmt.Sprintf("run/%d.lock", g.VMID)].Perm(), "who can open it for reading can hold it")
			require.True(t, modes["cache/NVIDIA-Linux-x86_64-"+newer].IsDir())
		})
	}
}

// What others may write decides nothing, and the hook says so.
func TestPermissionOfOthersToWriteIsRefused(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	t.Run("configuration", func(t *testing.T) {
		require.NoError(t, os.Chmod(n.Path("config.toml"), 0o666))
		require.Contains(t, g.postStart(1), "config.toml")
		require.NoError(t, os.Chmod(n.Path("config.toml"), 0o644))
		require.Zero(t, n.Mirror.Total())
	})
	t.Run("cache", func(t *testing.T) {
		require.NoError(t, os.Mkdir(n.Cache(), 0o755))
		require.NoError(t, os.Chmod(n.Cache(), 0o777))
		require.Contains(t, g.postStart(1), "others than root could replace what root runs")
		require.NoError(t, os.Chmod(n.Cache(), 0o755))
		require.Zero(t, n.Mirror.Total())
	})
	t.Run("state", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(n.Path("state")))
		require.NoError(t, os.Mkdir(n.Path("elsewhere"), 0o700))
		require.NoError(t, os.Symlink(n.Path("elsewhere"), n.Path("state")))
		said, _ := g.anyhow("--force")
		require.Contains(t, said, n.Path("state"))
		left, err := os.ReadDir(n.Path("elsewhere"))
		require.NoError(t, err)
		require.Empty(t, left, "nothing is written through a link")
		require.NoError(t, os.Remove(n.Path("state")))
		require.NoError(t, os.Mkdir(n.Path("state"), 0o777))
		require.NoError(t, os.Chmod(n.Path("state"), 0o777))
		said, _ = g.anyhow("--force")
		require.Contains(t, said, n.Path("state"))
		left, err = os.ReadDir(n.Path("state"))
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

func TestFaultAMountOfOthersInTheStage(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("mkdir -p /var/lib/pve-nvidia-hook/stage/tree && mount -t tmpfs none /var/lib/pve-nvidia-hook/stage/tree")
	g.failsThenHeals("clear /var/lib/pve-nvidia-hook/stage", func() { g.sh("umount /var/lib/pve-nvidia-hook/stage/tree") })
}

// The host's driver is exchanged while the run file of the old one comes. Without
// nvidia-smi nothing else would notice that its files are not those of the new one.
func TestFaultHostDriverChangesDuringTheDownload(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[driver]\nverify = \"files\"\n")
	n.Mirror.Rate = 2 << 20
	g := n.start(lab.Spec{})
	changed := make(chan error, 1)
	go func() {
		for range 1000 {
			if parts, _ := filepath.Glob(n.Path("cache/*.part")); len(parts) > 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		changed <- n.Module(older)
	}()
	said := g.postStart(1)
	require.NoError(t, <-changed)
	require.Contains(t, said, "driver "+older+" is wanted by now, and what was fetched is "+newer)
	g.unrecorded()
	g.postStart(0)
	g.holds(older)
}
