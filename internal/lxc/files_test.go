package lxc_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// sh runs a script in the container.
func sh(t *testing.T, at *lab.Container, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := at.Attach(ctx, "sh", "-ec", script)
	require.NoError(t, err, out)
	return out
}

func TestFilesBelongToTheContainersRoot(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		require.NoError(t, c.MkdirAll("/var/lib/a/b/", 0o755))
		require.NoError(t, c.MkdirAll("/var/lib/a/b", 0o755))
		require.NoError(t, c.WriteFile("/var/lib/a/b/f", []byte("one"), 0o644))
		require.NoError(t, c.WriteFile("/var/lib/a/b/f", []byte("two"), 0o600))
		n, err := c.CopyIn(t.Context(), strings.NewReader("three"), "/var/lib/a/b/g", 0o755)
		require.NoError(t, err)
		require.EqualValues(t, 5, n)
		_, err = c.CopyIn(t.Context(), strings.NewReader("four"), "/var/lib/a/b/g", 0o755)
		require.ErrorIs(t, err, fs.ErrExist)
		require.Equal(t, "0 0 755\n0 0 755\n0 0 600\n0 0 755\ntwothree",
			sh(t, at, "cd /var/lib/a; stat -c '%u %g %a' . b b/f b/g; cat b/f b/g"))
		names, err := c.ReadDir("/var/lib/a/b", 2)
		require.NoError(t, err)
		require.Equal(t, []string{"f", "g"}, names, "no temporary file is left")
		_, err = c.ReadDir("/var/lib/a/b", 1)
		require.ErrorContains(t, err, "more than 1")
		data, err := c.ReadFile("/var/lib/a/b/f", 3)
		require.NoError(t, err)
		require.Equal(t, "two", string(data))
		_, err = c.ReadFile("/var/lib/a/b/f", 2)
		require.ErrorContains(t, err, "larger than 2 bytes")
		info, err := c.Stat("/var/lib/a/b/f")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode)
		require.EqualValues(t, 3, info.Size)
	})
}

func TestNothingThereIsNotExist(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		_, err := c.Stat("/no/such")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = c.Lstat("")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = c.ReadFile("/no/such", 1)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, c.Remove("/no/such"))
		require.NoError(t, c.RemoveAll("/no/such"))
		for _, name := range []string{"/", "", ".", "..", "/etc/..", "/etc/."} {
			require.Error(t, c.Remove(name), name)
			require.Error(t, c.RemoveAll(name), name)
			require.Error(t, c.WriteFile(name, nil, 0o600), name)
		}
		_, err = c.Stat("/etc/passwd")
		require.NoError(t, err)
	})
}

func TestLinksStayInsideTheRoot(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	require.NoError(t, os.WriteFile(canary, []byte("host"), 0o666))
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, `cd /root; ln -s `+canary+` abs; ln -s ../../../../../../../../..`+canary+` up
			ln -s `+filepath.Dir(canary)+` dir; ln -s ../../../../../../.. top; ln -s loop2 loop; ln -s loop loop2
			ln -s /proc/1/root proc; ln -s /proc/self/fd/0 fd0; ln -s missing dangling`)
		for _, name := range []string{"abs", "up", "dir/canary", "loop", "top" + canary, "proc/etc/passwd", "fd0"} {
			_, err := c.ReadFile("/root/"+name, 100)
			require.Error(t, err, name)
			_, err = c.Stat("/root/" + name)
			require.Error(t, err, name)
		}
		for _, name := range []string{"dir/canary", "loop/x", "proc/root/x"} {
			require.Error(t, c.WriteFile("/root/"+name, []byte("bad"), 0o644), name)
			require.Error(t, c.MkdirAll("/root/"+name+"/y", 0o755), name)
		}
		target, err := c.Readlink("/root/abs")
		require.NoError(t, err)
		require.Equal(t, canary, target)
		_, err = c.Readlink("/etc/passwd")
		require.Error(t, err)
		// A link at the end is replaced or refused, never written through.
		require.NoError(t, c.WriteFile("/root/abs", []byte("mine"), 0o644))
		_, err = c.CopyIn(t.Context(), strings.NewReader("x"), "/root/dangling", 0o644)
		require.ErrorIs(t, err, fs.ErrExist)
		require.NoError(t, c.RemoveAll("/root/up"))
		require.NoError(t, c.RemoveAll("/root/dir"))
		// The same names inside the container are reached.
		sh(t, at, "mkdir -p "+filepath.Dir(canary)+"; echo -n inside > "+canary)
		data, err := c.ReadFile("/root/top"+canary, 100)
		require.NoError(t, err)
		require.Equal(t, "inside", string(data))
		data, err = os.ReadFile(canary)
		require.NoError(t, err)
		require.Equal(t, "host", string(data))
	})
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, "mkfifo /root/fifo; ln -s fifo /root/link")
		for _, name := range []string{"/root/fifo", "/root/link", "/dev/zero", "/dev/tty", "/etc", "/proc/kmsg", "/proc/1/environ", "/sys/kernel/uevent_seqnum"} {
			begin := time.Now()
			_, err := c.OpenFile(name)
			require.Error(t, err, name)
			require.Less(t, time.Since(begin), time.Second, name)
		}
	})
}

// A file of the host that is bind-mounted into an unprivileged container is not
// the container's to change, so the hook must not change it on its behalf.
func TestTheHostsFilesInABindMountAreOutOfReach(t *testing.T) {
	host := t.TempDir()
	require.NoError(t, errors.Join(os.Chmod(host, 0o755), os.Chmod(filepath.Dir(host), 0o755)))
	require.NoError(t, os.WriteFile(filepath.Join(host, "secret"), []byte("s"), 0o600))
	_, c := open(t, lab.Spec{VMID: 101, ExtraConfig: []string{"lxc.mount.entry = " + host + " mnt none bind 0 0"}})
	_, err := c.ReadFile("/mnt/secret", 10)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorIs(t, c.WriteFile("/mnt/new", nil, 0o644), fs.ErrPermission)
	require.ErrorIs(t, c.MkdirAll("/mnt/dir", 0o755), fs.ErrPermission)
	require.ErrorIs(t, c.RemoveAll("/mnt/secret"), fs.ErrPermission)
	names, err := c.ReadDir("/mnt", 10)
	require.NoError(t, err)
	require.Equal(t, []string{"secret"}, names)
}

func TestRemoveAllRemovesWhatOtherUsersOfTheContainerOwn(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, `mkdir -p /root/x/a/b/c; cd /root/x; touch a/1 a/b/2; ln -s /etc out; mkfifo f
			chown -R 1000:1000 a; chmod 700 a a/b; chmod 500 a/b/c
			i=0; while [ $i -lt 3000 ]; do : > a/b/$i; i=$((i+1)); done`)
		require.NoError(t, c.RemoveAll("/root/x"))
		_, err := c.Lstat("/root/x")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = c.Stat("/etc/passwd")
		require.NoError(t, err)
	})
}

// Fedora and its like have /usr/bin so.
func TestAFolderThatNobodyMayWriteToByItsModeIsWrittenTo(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, "mkdir /root/bin; chmod 555 /root/bin")
		require.NoError(t, c.Symlink("/opt/x", "/root/bin/link"))
		require.NoError(t, c.WriteFile("/root/bin/file", []byte("x"), 0o644))
		require.NoError(t, c.MkdirAll("/root/bin/dir/dir", 0o755))
		_, err := c.CopyIn(t.Context(), strings.NewReader("x"), "/root/bin/copy", 0o644)
		require.NoError(t, err)
		require.Equal(t, "bin/copy 0\nbin/dir 0\nbin/file 0\nbin/link 0\n", sh(t, at, "cd /root; stat -c '%n %u' bin/*"))
		// The next one is done without the capability.
		sh(t, at, "mkdir -m 700 /root/other; chown 1000 /root/other")
		_, err = c.ReadDir("/root/other", 10)
		require.Equal(t, !c.Privileged(), errors.Is(err, fs.ErrPermission))
	})
}

func TestRemoveAllEntersNoOtherMount(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101, Privileged: true})
	sh(t, at, "mkdir -p /root/x/m; mount -t tmpfs none /root/x/m; echo keep > /root/x/m/f")
	require.Error(t, c.RemoveAll("/root/x"))
	require.Equal(t, "keep\n", sh(t, at, "cat /root/x/m/f"))
}

func TestRemoveAllEndsOnEndlessNesting(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101})
	sh(t, at, "cd /root; i=0; while [ $i -lt 80 ]; do mkdir d; cd d; i=$((i+1)); done")
	require.ErrorContains(t, c.RemoveAll("/root/d"), "nest deeper")
}

func TestAFullDiskIsAnErrorAndLeavesNothing(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101, SizeLimit: 8 << 20})
	free, err := c.Free("/root")
	require.NoError(t, err)
	require.Greater(t, free, uint64(4<<20))
	require.LessOrEqual(t, free, uint64(8<<20))
	_, err = c.CopyIn(t.Context(), bytes.NewReader(make([]byte, 16<<20)), "/root/big", 0o644)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, c.WriteFile("/root/big", make([]byte, 16<<20), 0o644), syscall.ENOSPC)
	names, err := c.ReadDir("/root", 100)
	require.NoError(t, err)
	for _, name := range names {
		require.NotContains(t, name, "big")
		require.NotContains(t, name, "pve-nvidia-hook")
	}
	again, err := c.Free("/root")
	require.NoError(t, err)
	require.InDelta(t, free, again, 1<<20)
}

func TestCopyInEndsWithItsContext(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	ctx, cancel := context.WithCancel(t.Context())
	n, err := c.CopyIn(ctx, endless(func() { cancel() }), "/root/f", 0o644)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, n, int64(64<<20))
	_, err = c.Lstat("/root/f")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

type endless func()

func (e endless) Read(p []byte) (int, error) { e(); return len(p), nil }

// While the container swaps a folder and a link to one of the host's, nothing
// outside its root is read or written.
func TestARaceOfFolderAndLinkLeadsNowhere(t *testing.T) {
	host := t.TempDir()
	require.NoError(t, errors.Join(os.Chmod(host, 0o777), os.Chmod(filepath.Dir(host), 0o755)))
	canary := filepath.Join(host, "f")
	require.NoError(t, os.WriteFile(canary, []byte("host"), 0o666))
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		root := filepath.Join(at.Root, "root")
		require.NoError(t, os.Mkdir(filepath.Join(root, "real"), 0o777))
		require.NoError(t, os.Chmod(filepath.Join(root, "real"), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(root, "real", "f"), []byte("inside"), 0o666))
		require.NoError(t, os.Symlink(host, filepath.Join(root, "link")))
		require.NoError(t, os.Symlink("real", filepath.Join(root, "work")))
		stop := make(chan struct{})
		var swapper sync.WaitGroup
		swapper.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, to := range []string{"real", host, "../../../../../../../../.." + host} {
					os.Remove(filepath.Join(root, "next"))
					os.Symlink(to, filepath.Join(root, "next"))
					os.Rename(filepath.Join(root, "next"), filepath.Join(root, "work"))
				}
			}
		})
		wrote, failed := 0, 0
		for range 2000 {
			data, err := c.ReadFile("/root/work/f", 100)
			if err == nil {
				require.Contains(t, []string{"inside", "written"}, string(data))
			}
			if err := c.WriteFile("/root/work/f", []byte("written"), 0o644); err == nil {
				wrote++
			} else {
				require.True(t, errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EAGAIN), err)
				failed++
			}
		}
		close(stop)
		swapper.Wait()
		require.NotZero(t, wrote)
		require.NotZero(t, failed)
		data, err := os.ReadFile(canary)
		require.NoError(t, err)
		require.Equal(t, "host", string(data))
		names, err := os.ReadDir(host)
		require.NoError(t, err)
		require.Len(t, names, 1)
	})
}
