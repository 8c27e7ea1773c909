package share

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// runFolder is a run folder whose mount goes at the end of the test.
func runFolder(t *testing.T) string {
	t.Helper()
	labtest.Need(t) // root, and the kernel's overlay
	run := filepath.Join(t.TempDir(), "run")
	require.NoError(t, os.Mkdir(run, 0o755))
	t.Cleanup(func() { labtest.Unmount(Point(run)) })
	return run
}

func mountsAt(t *testing.T, point string) (found []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+point+" ") {
			found = append(found, line)
		}
	}
	return found
}

func TestTheMountIsReadOnlyAndFollowsTheVersion(t *testing.T) {
	run, cache := runFolder(t), t.TempDir()
	held, err := Lock(t.Context(), run, lock.Options{})
	require.NoError(t, err)
	defer held.Release()
	require.False(t, IsReady(run, "550.163.01"))
	require.NoError(t, Mount(t.Context(), run, unpacked(t, cache, "550.163.01"), "pve1", "x86_64"))
	require.True(t, IsReady(run, "550.163.01"))
	require.ErrorIs(t, os.WriteFile(filepath.Join(Point(run), "lib/x"), nil, 0o644), syscall.EROFS)
	require.Error(t, syscall.Mount("", Point(run), "", syscall.MS_REMOUNT, ""), "the superblock is read-only for good")

	// Whoever has the old one keeps it.
	old, err := os.Open(filepath.Join(Point(run), "lib/libcuda.so.1"))
	require.NoError(t, err)
	defer old.Close()
	bound := filepath.Join(t.TempDir(), "container")
	require.NoError(t, os.Mkdir(bound, 0o755))
	require.NoError(t, syscall.Mount(Point(run), bound, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { syscall.Unmount(bound, syscall.MNT_DETACH) })

	require.NoError(t, Mount(t.Context(), run, unpacked(t, cache, "580.142"), "pve1", "x86_64"))
	require.True(t, IsReady(run, "580.142"))
	require.DirExists(t, filepath.Join(Folders(run), "lib/gbm"))
	require.NoError(t, os.RemoveAll(Folders(run)))
	require.False(t, IsReady(run, "580.142"), "a privileged container needs its second layer")
	require.FileExists(t, filepath.Join(bound, "lib/libcuda.so.550.163.01"))
	require.Len(t, mountsAt(t, Point(run)), 1, "the old one does not lie below")
	require.True(t, inUse(run, Dir(filepath.Join(cache, "NVIDIA-Linux-x86_64-550.163.01"), "pve1")))
}

// A layout that a container may have is not exchanged under it, though its tree has
// been unpacked anew.
func TestALayoutInUseStaysAsItIs(t *testing.T) {
	run, cache := runFolder(t), t.TempDir()
	tree := unpacked(t, cache, "580.142")
	require.NoError(t, Mount(t.Context(), run, tree, "pve1", "x86_64"))
	before, err := os.Stat(Dir(tree, "pve1"))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(tree))
	unpacked(t, cache, "580.142")
	require.NoError(t, Mount(t.Context(), run, tree, "pve1", "x86_64"))
	after, err := os.Stat(Dir(tree, "pve1"))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
}

// Root of a privileged container may open files by their handles (CAP_DAC_READ_SEARCH).
// With a descriptor of the mount that would reach any file of the file system below.
func TestTheMountOpensNothingByItsHandle(t *testing.T) {
	run, cache := runFolder(t), t.TempDir()
	tree := unpacked(t, cache, "580.142")
	require.NoError(t, Mount(t.Context(), run, tree, "pve1", "x86_64"))
	own := t.TempDir() // as a privileged container has it
	require.NoError(t, unix.Mount("overlay", own, "overlay", unix.MS_RDONLY, "lowerdir="+Point(run)+":"+Folders(run)))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(own, 0)) })
	secret := filepath.Join(cache, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("x"), 0o600))
	opens := func(name, at string) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, name, 0)
		if err != nil {
			return err
		}
		dir, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(dir)
		fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	require.NoError(t, opens(secret, cache), "the file system of the cache has handles")
	for _, at := range []string{Point(run), own} {
		for _, name := range []string{secret, filepath.Join(tree, ".manifest"), filepath.Join(at, "lib/libcuda.so.580.142")} {
			require.Error(t, opens(name, at), "%s by way of %s", name, at)
		}
	}
}

// The cache was emptied by hand while containers ran with what was in it.
func TestALayoutThatIsGoneIsMadeAgain(t *testing.T) {
	run, cache := runFolder(t), t.TempDir()
	tree := unpacked(t, cache, "580.142")
	require.NoError(t, Mount(t.Context(), run, tree, "pve1", "x86_64"))
	require.NoError(t, os.RemoveAll(tree))
	require.NoError(t, os.RemoveAll(Dir(tree, "pve1")))
	require.False(t, IsReady(run, "580.142"))
	unpacked(t, cache, "580.142")
	require.NoError(t, Mount(t.Context(), run, tree, "pve1", "x86_64"))
	require.True(t, IsReady(run, "580.142"))
	require.FileExists(t, filepath.Join(Point(run), "bin/nvidia-smi"))
}

// The unit that brings containers into line has a mount namespace of its own.
func TestTheMountIsMadeForAllAlsoFromAnotherNamespace(t *testing.T) {
	if run := os.Getenv("SHARE_TEST_RUN"); run != "" {
		require.NoError(t, Mount(t.Context(), run, os.Getenv("SHARE_TEST_TREE"), "pve1", "x86_64"))
		return
	}
	run := runFolder(t)
	tree := unpacked(t, t.TempDir(), "580.142")
	// The shell is process 1 of a pid namespace.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "sh", "-c", `mount -t proc proc /proc &&
		unshare --mount --propagation private "$0" -test.run "^$1\$" && cat "$2/driver/layout.json"`, os.Args[0], t.Name(), run)
	cmd.Env = append(os.Environ(), "SHARE_TEST_RUN="+run, "SHARE_TEST_TREE="+tree)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), `"version": "580.142"`)
	require.Empty(t, mountsAt(t, Point(run)), "that namespace is gone")
}
