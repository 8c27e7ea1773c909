package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// In the environment this makes the test binary a process that holds a lock.
const asHolder = "LOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(asHolder); path != "" {
		if _, err := Take(context.Background(), path, Options{Holder: "container 101"}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent closes it or is gone
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holdElsewhere starts a process that holds the lock, and returns what ends it.
func holdElsewhere(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, os.Args[0])
	c.Env = append(os.Environ(), asHolder+"="+path)
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	return c
}

func take(t *testing.T, path string, o Options) *Lock {
	t.Helper()
	l, err := Take(context.Background(), path, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Release() })
	return l
}

func TestOneHolderAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	first := take(t, path, Options{})
	_, err := Take(context.Background(), path, Options{})
	require.ErrorIs(t, err, ErrBusy)
	_, err = Take(context.Background(), path, Options{Shared: true})
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, first.Release())
	require.NoError(t, first.Release(), "a second release does nothing")
	take(t, path, Options{})
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

func TestReadersShare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	one := take(t, path, Options{Shared: true})
	take(t, path, Options{Shared: true})
	_, err := Take(context.Background(), path, Options{})
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, one.Release())
	_, err = Take(context.Background(), path, Options{})
	require.ErrorIs(t, err, ErrBusy, "one reader is left")
}

func TestWaiterIsToldWhoHoldsAndTimesOutNamingIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	other := holdElsewhere(t, path)
	var said []string
	_, err := Take(context.Background(), path, Options{
		Timeout: 60 * time.Millisecond,
		OnWait:  func(h string, _ time.Duration) { said = append(said, h) },
	})
	require.ErrorIs(t, err, ErrBusy)
	host, _ := os.Hostname()
	want := fmt.Sprintf("pid %d on %s for container 101 since ", other.Process.Pid, host)
	require.Len(t, said, 1, "at once, then every minute")
	require.Contains(t, said[0], want)
	require.ErrorContains(t, err, want)
	require.NotEmpty(t, hint.Of(err))
}

func TestKilledHolderFreesTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	other := holdElsewhere(t, path)
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = other.Process.Signal(syscall.SIGKILL)
		_ = other.Wait()
	}()
	l := take(t, path, Options{Timeout: 10 * time.Second})
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "container 101", "its text is still there")
	require.Equal(t, "another process", Holder(path), "but nobody is named by it")
	require.NoError(t, l.Release())
}

func TestReleaseClearsTheText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	l := take(t, path, Options{Holder: "container 7"})
	require.Contains(t, Holder(path), "for container 7")
	require.NoError(t, l.Release())
	require.Equal(t, "another process", Holder(path))
}

func TestEnoughEndsTheWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	take(t, path, Options{})
	asked := 0
	_, err := Take(context.Background(), path, Options{Timeout: time.Minute, Enough: func() bool { asked++; return asked == 3 }})
	require.ErrorIs(t, err, ErrEnough)
}

func TestCancelledContextEndsTheWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	take(t, path, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Take(ctx, path, Options{Timeout: time.Minute, OnWait: func(string, time.Duration) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
}

func TestRemovedLockFileLocksNobodyOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	old := take(t, path, Options{})
	got := make(chan error, 1)
	go func() {
		l, err := Take(context.Background(), path, Options{Timeout: 10 * time.Second})
		if err == nil {
			_, second := Take(context.Background(), path, Options{})
			if !errors.Is(second, ErrBusy) {
				err = fmt.Errorf("two hold it: %v", second)
			}
			_ = l.Release()
		}
		got <- err
	}()
	require.NoError(t, old.Remove())
	require.NoError(t, <-got)
}

func TestOddLockFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(path string) error{
		"link":   func(p string) error { return os.Symlink(filepath.Join(dir, "elsewhere"), p) },
		"fifo":   func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"folder": func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, make(path))
		for _, shared := range []bool{false, true} {
			_, err := Take(context.Background(), path, Options{Shared: shared, Timeout: time.Second})
			require.Error(t, err, "%s, shared %v", name, shared)
			require.NotErrorIs(t, err, ErrBusy)
		}
	}
	require.NoFileExists(t, filepath.Join(dir, "elsewhere"))
}

func TestHostileTextIsHarmless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	for _, c := range []struct{ text, want string }{
		{"", "another process"},
		{"{", "another process"},
		{`{"pid":-1,"host":"x"}`, "another process"},
		{`{"pid":"x"}`, "another process"},
		{`{"pid":1,"host":"node1","what":"a\u001b[2Jb\nc\u202e","since":"2020-01-02T03:04:05Z"}`, `pid 1 on node1 for a\x1b[2Jb c\u202e since 2020-01-0`},
		{`{"pid":1,"host":"` + strings.Repeat("h", 300) + `"}`, "pid 1 on " + strings.Repeat("h", 100) + "..."},
		{`{"pid":1,"host":"` + strings.Repeat("h", 1<<20) + `"}`, "another process"},
	} {
		require.NoError(t, os.WriteFile(path, []byte(c.text), 0o644))
		require.True(t, strings.HasPrefix(Holder(path), c.want), "%.80q gave %q", c.text, Holder(path))
	}
}

func TestLocalFileSystemExcludes(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Excludes(dir))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.ErrorContains(t, Excludes(filepath.Join(dir, "missing")), "cannot be tested")
}

func TestMountOptionsThatKeepLocksLocal(t *testing.T) {
	for line, want := range map[string]string{
		"36 35 0:50 / /mnt/a rw,relatime shared:1 - nfs4 s:/x rw,vers=4.2,local_lock=none":                     "",
		"36 35 0:50 / /mnt/a rw,relatime shared:1 - nfs s:/x rw,vers=3,nolock,local_lock=none":                 "nolock",
		"36 35 0:50 / /mnt/a rw,relatime - nfs s:/x rw,vers=3,local_lock=all":                                  "local_lock=all",
		"36 35 0:50 / /mnt/a rw,relatime shared:1 master:2 - cifs //s/x rw,nobrl,vers=3":                       "nobrl",
		"36 35 8:1 / / rw,relatime - ext4 /dev/sda1 rw,nolock":                                                 "",
		"36 35 0:51 / /c rw - ceph 1,2:/ rw,name=admin":                                                        "",
		"36 35 0:51 / /a\\040-\\040b rw,relatime shared:9 - nfs4 s:/with\\040space rw,local_lock=flock,proto=": "local_lock=flock",
	} {
		all, err := mountinfo.GetMountsFromReader(strings.NewReader(line+"\n"), nil)
		require.NoError(t, err, line)
		require.Equal(t, want, localLocks(*all[0]), line)
	}
}

func TestMountIsFound(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	require.NoError(t, syscall.Mount("named", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.Equal(t, "tmpfs on named", kind(mountOf(filepath.Join(dir, "sub"))))
	require.Equal(t, "unknown file system", kind(mountOf(filepath.Join(dir, "missing"))))
	require.Empty(t, MayNotExclude(dir))
}

// A FUSE file system that nobody serves: it is not touched, only looked for.
func TestFUSEMayNotExclude(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for kind, want := range map[string]string{"fuse.sshfs": "fuse.sshfs on host:/dir", "fuse": "fuse on host:/dir", "fuse.glusterfs": ""} {
		dir := t.TempDir()
		fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		defer fuse.Close()
		require.NoError(t, syscall.Mount("host:/dir", dir, kind, 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())))
		require.Equal(t, want, MayNotExclude(dir))
		require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	}
}
