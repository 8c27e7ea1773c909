package lxc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// tree is a folder of the host as the cache unpacks one.
func tree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	for name, mode := range map[string]fs.FileMode{"data": 0o644, "open": 0o666, "sub/tool": 0o755, "suid": 0o755} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho ran\n"), 0o600))
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "suid"), 0o755|fs.ModeSetuid))
	require.NoError(t, os.Chmod(filepath.Join(dir, "sub"), 0o777))
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// snapshot is all that must not change.
func snapshot(t *testing.T, dir string) string {
	out, err := exec.Command("find", dir, "-printf", "%P %y %m %U %G %s %T@ %C@\n").CombinedOutput()
	require.NoError(t, err)
	sums, err := exec.Command("sh", "-c", "find "+dir+" -type f | sort | xargs sha256sum").CombinedOutput()
	require.NoError(t, err)
	return string(out) + string(sums)
}

func TestContainerRootCanUseTheTreeAndChangeNothing(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		dir := tree(t)
		before := snapshot(t, dir)
		require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
		require.NoError(t, c.MountTree(t.Context(), dir, "/mnt/tree"))
		require.Equal(t, "ran\n#!/bin/sh\necho ran\n", sh(t, at, "/mnt/tree/sub/tool; cat /mnt/tree/data"))
		attacks := `cd /mnt/tree
			for f in data open sub/tool; do
				(echo x > $f) && echo "wrote $f"; chmod 777 $f && echo "chmod $f"; chown 0:0 $f && echo "chown $f"
				rm -f $f && echo "removed $f"; mv $f $f.2 && echo "moved $f"; ln $f /mnt/tree/sub/hard && echo "linked $f"
				touch -d @1 $f && echo "touched $f"; truncate -s 0 $f && echo "truncated $f"
			done
			touch new sub/new && echo created; mkdir d sub/d && echo mkdir; rmdir sub && echo rmdir; chmod 777 . && echo "chmod ."
			mknod sub/null c 1 3 && echo mknod; true`
		check := func() {
			t.Helper()
			out, _ := at.Attach(t.Context(), "sh", "-c", "("+attacks+") 2>/dev/null")
			require.Empty(t, out)
			require.Equal(t, before, snapshot(t, dir))
		}
		check()
		_, err := at.Attach(t.Context(), "mount", "-o", "remount,bind,rw,suid,dev", "/mnt/tree")
		if at.Spec.Privileged {
			require.NoError(t, err, "this is what the overlay guards against")
		}
		check()
		out, _ := at.Attach(t.Context(), "sh", "-c", "mkdir -p /mnt/again; mount --bind /mnt/tree /mnt/again && mount -o remount,bind,rw /mnt/again; cd /mnt/again; touch sub/x; echo x > open")
		require.Equal(t, before, snapshot(t, dir), out)
		at.Attach(t.Context(), "umount", "/mnt/again")

		require.NoError(t, c.UnmountTree(t.Context(), "/mnt/tree"))
		require.NoError(t, c.UnmountTree(t.Context(), "/mnt/tree"))
		names, err := c.ReadDir("/mnt/tree", 10)
		require.NoError(t, err)
		require.Empty(t, names)
		require.NoError(t, c.RemoveAll("/mnt/tree"))
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		require.NotContains(t, string(mounts), dir, "the host's mounts are untouched")
	})
}

func TestUnmountTreeTakesAwayAllThatIsOurs(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		dir := tree(t)
		require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
		require.NoError(t, c.MountTree(t.Context(), dir, "/mnt/tree"))
		require.ErrorIs(t, c.MountTree(t.Context(), dir, "/mnt/tree"), syscall.ENOTEMPTY)
		require.NoError(t, c.MountTree(t.Context(), dir, "/mnt/../opt"))
		for range 3 { // one mount on another
			sh(t, at, "mount --bind /mnt/tree /mnt/tree || true")
		}
		// A process that has its working folder in it does not hold it.
		cmd := shell("cd /mnt/tree; echo up; sleep 1")
		unmounted := make(chan error, 1)
		cmd.OnLine = func(string) { unmounted <- c.UnmountTree(t.Context(), "/mnt/tree") }
		_, err := c.Run(t.Context(), cmd)
		require.NoError(t, err)
		require.NoError(t, <-unmounted)
		require.NoError(t, c.UnmountTree(t.Context(), "/opt"))
		require.NotContains(t, sh(t, at, "cat /proc/self/mountinfo"), " overlay pve-nvidia-hook ")
		require.NoError(t, c.UnmountTree(t.Context(), "/no/such"))
	})
}

func TestUnmountTreeLeavesOtherMountsAlone(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101, Privileged: true})
	sh(t, at, "mkdir /mnt/t; mount -t tmpfs none /mnt/t; ln -s / /mnt/root; ln -s /proc /mnt/proc")
	before := sh(t, at, "cat /proc/self/mountinfo")
	for _, name := range []string{"/mnt/t", "/proc", "/", "/dev", "/sys"} {
		require.NoError(t, c.UnmountTree(t.Context(), name), name)
	}
	for _, name := range []string{"/mnt/root", "/mnt/proc"} { // links are not followed at the end
		c.UnmountTree(t.Context(), name)
	}
	require.Equal(t, before, sh(t, at, "cat /proc/self/mountinfo"))
}

func TestMountTreeRefusesWhatIsNoEmptyFolder(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101})
	dir := tree(t)
	sh(t, at, "ln -s /srv /mnt/link; touch /mnt/file")
	require.ErrorIs(t, c.MountTree(t.Context(), dir, "/usr"), syscall.ENOTEMPTY)
	require.Error(t, c.MountTree(t.Context(), dir, "/mnt/link"))
	require.Error(t, c.MountTree(t.Context(), dir, "/mnt/file"))
	require.ErrorIs(t, c.MountTree(t.Context(), dir, "/mnt/missing"), fs.ErrNotExist)
	require.ErrorIs(t, c.MountTree(t.Context(), dir+"/missing", "/srv"), fs.ErrNotExist)
	require.NotContains(t, sh(t, at, "cat /proc/self/mountinfo"), " overlay pve-nvidia-hook ")
}

// The container swaps the target for a link while the tree is mounted and
// unmounted many times; the host's mounts and folders stay as they are.
func TestARaceForTheTargetLeadsNowhere(t *testing.T) {
	host := t.TempDir()
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		dir := tree(t)
		before := snapshot(t, dir)
		root := filepath.Join(at.Root, "root")
		require.NoError(t, c.MkdirAll("/root/real", 0o755))
		require.NoError(t, c.MkdirAll("/root/a", 0o755))
		stop := make(chan struct{})
		var swapper sync.WaitGroup
		swapper.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				if round%4 == 0 { // so that a mount on a busy machine has a chance
					time.Sleep(time.Millisecond)
				}
				os.Rename(filepath.Join(root, "a"), filepath.Join(root, "b"))
				os.Symlink(host, filepath.Join(root, "a"))
				os.Remove(filepath.Join(root, "a"))
				os.Symlink("../../../../../.."+host, filepath.Join(root, "a"))
				os.Remove(filepath.Join(root, "a"))
				os.Rename(filepath.Join(root, "b"), filepath.Join(root, "a"))
			}
		})
		mounted := 0
		for n := 0; n < 100 || mounted == 0 && n < 1000; n++ {
			if c.MountTree(t.Context(), dir, "/root/a") == nil {
				mounted++
			}
			c.UnmountTree(t.Context(), "/root/a")
		}
		close(stop)
		swapper.Wait()
		for range 20 {
			require.NoError(t, c.UnmountTree(t.Context(), "/root/a"))
		}
		require.NotZero(t, mounted)
		require.NotContains(t, sh(t, at, "cat /proc/self/mountinfo"), " overlay pve-nvidia-hook ")
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		require.NotContains(t, string(mounts), host)
		require.Equal(t, before, snapshot(t, dir))
		left, err := os.ReadDir(host)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// Root of a privileged container has the host's capabilities: with a mount of the
// host's own superblock it could watch every open on it and write by what it sees.
func TestAContainerGetsNoHandleOnTheHostsFileSystem(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		dir := tree(t)
		require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
		require.NoError(t, c.MountTree(t.Context(), dir, "/mnt/tree"))
		// FIFREEZE, too, would be of the file system that is behind it.
		var host unix.Stat_t
		require.NoError(t, unix.Stat(dir, &host))
		require.NotEqual(t, fmt.Sprint(host.Dev), strings.TrimSpace(sh(t, at, "stat -c %d /mnt/tree")))
		secret := filepath.Join(filepath.Dir(dir), "secret")
		require.NoError(t, os.WriteFile(secret, []byte("x"), 0o600))
		// fanotify_init(2), and fanotify_mark(2) of the whole file system with
		// FAN_MARK_ADD|FAN_MARK_FILESYSTEM for FAN_OPEN, by their numbers on x86_64.
		const watch = `$| = 1;
my ($tree, $ready) = ("/mnt/tree", "/root/ready");
my $fd = syscall(300, 0, 0);
my $marked = $fd >= 0 && syscall(301, $fd, 0x101, 0x20, -100, $tree) == 0;
open(my $r, ">", $ready); close $r;
my $seen = "";
if ($marked) {
	vec(my $in = "", $fd, 1) = 1;
	while (select(my $out = $in, undef, undef, 2)) {
		open(my $events, "<&=", $fd); sysread($events, my $event, 24);
		my $at = unpack("x16 l", $event);
		my $name = readlink("/proc/self/fd/$at") // "";
		$seen .= "$name\n" if $name =~ /secret/;
		last if $seen ne "";
	}
}
print $seen;`
		require.NoError(t, os.WriteFile(filepath.Join(at.Root, "root/watch"), []byte(watch), 0o644))
		require.NoError(t, os.Chmod(filepath.Join(at.Root, "root/watch"), 0o644))
		said := make(chan string, 1)
		go func() {
			out, err := at.Attach(context.Background(), "perl", "/root/watch")
			if err != nil {
				out += err.Error()
			}
			said <- out
		}()
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(at.Root, "root/ready"))
			return err == nil || len(said) > 0
		}, 20*time.Second, 10*time.Millisecond)
		for range 5 {
			_, err := os.ReadFile(secret)
			require.NoError(t, err)
		}
		require.Empty(t, <-said)
	})
}

// An overlay over FUSE can be made, but a server may refuse what an unprivileged
// container asks of it (bindfs does).
func TestATreeOnFUSEIsErrNoMount(t *testing.T) {
	labtest.Program(t, "bindfs")
	_, c := open(t, lab.Spec{VMID: 101})
	dir, fuse := tree(t), filepath.Join(t.TempDir(), "fuse")
	require.NoError(t, os.Mkdir(fuse, 0o755))
	out, err := exec.Command("bindfs", dir, fuse).CombinedOutput()
	require.NoError(t, err, string(out))
	t.Cleanup(func() { syscall.Unmount(fuse, syscall.MNT_DETACH) })
	require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
	err = c.MountTree(t.Context(), fuse, "/mnt/tree")
	require.ErrorIs(t, err, lxc.ErrNoMount)
	require.ErrorContains(t, err, "fuse")
}

// The kernel stacks two file systems at most (FILESYSTEM_MAX_STACK_DEPTH).
func TestAFileSystemThatCannotBeALayerIsErrNoMount(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	dir, empty := tree(t), t.TempDir()
	for range 2 {
		up := filepath.Join(t.TempDir(), "overlay")
		require.NoError(t, os.Mkdir(up, 0o755))
		if err := unix.Mount("none", up, "overlay", unix.MS_RDONLY, "lowerdir="+dir+":"+empty); errors.Is(err, unix.EINVAL) {
			break // the folder of the tests lies on an overlay already
		} else {
			require.NoError(t, err)
		}
		t.Cleanup(func() { unix.Unmount(up, unix.MNT_DETACH) })
		dir = up
	}
	require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
	for _, err := range []error{lxc.CanMount(dir), c.MountTree(t.Context(), dir, "/mnt/tree")} {
		require.ErrorIs(t, err, lxc.ErrNoMount)
		require.ErrorContains(t, err, "overlay of "+dir)
	}
}

func TestMountTreeLeavesThisProcessWhereItIs(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	before, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	dir := tree(t)
	require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			c.MountTree(t.Context(), dir, "/mnt/tree")
			c.UnmountTree(t.Context(), "/mnt/tree")
		})
	}
	group.Wait()
	require.NoError(t, c.UnmountTree(t.Context(), "/mnt/tree"))
	require.Eventually(t, func() bool {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		require.NoError(t, err)
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != before {
				return false
			}
		}
		return true
	}, 5*time.Second, time.Millisecond, "no thread stays in the container")
}

func BenchmarkMountTree(b *testing.B) {
	at := labtest.Start(b, lab.Spec{VMID: 101})
	c, err := lxc.Open(b.Context(), at.LXCPath, 101)
	require.NoError(b, err)
	defer c.Close()
	require.NoError(b, c.MkdirAll("/mnt/tree", 0o755))
	dir := tree(b)
	for b.Loop() {
		require.NoError(b, c.MountTree(b.Context(), dir, "/mnt/tree"))
		b.StopTimer()
		require.NoError(b, c.UnmountTree(b.Context(), "/mnt/tree"))
		b.StartTimer()
	}
}
