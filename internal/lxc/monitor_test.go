package lxc_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

func TestOpenOfARunningContainerStartsNoProgram(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101})
	t.Setenv("PATH", t.TempDir())
	c, err := lxc.Open(t.Context(), at.LXCPath, 101)
	require.NoError(t, err)
	c.Close()
}

// answer is what a monitor sends: a result, the length of more to come, a pid.
func answer(result, more uint32, pid uint64) []byte {
	b := binary.NativeEndian.AppendUint32(nil, result)
	b = binary.NativeEndian.AppendUint32(b, more)
	return binary.NativeEndian.AppendUint64(b, pid)
}

// An answer that is not as it should be is none.
func TestOddAnswersOfAMonitorAreNotBelieved(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101})
	pid, err := at.Pid(t.Context())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		says   []byte
		opens  bool
		odd    bool // of a form that LXC's monitor does not use
		nobody bool // the socket belongs to another user
	}{
		"the pid":              {says: answer(0, 0, uint64(pid)), opens: true},
		"a refusal":            {says: answer(^uint32(0), 0, uint64(pid)), odd: true},
		"more to come":         {says: answer(0, 8, uint64(pid)), odd: true},
		"no process":           {says: answer(0, 0, 0)},
		"far too large":        {says: answer(0, 0, 1<<40)},
		"a process of ours":    {says: answer(0, 0, uint64(os.Getpid()))},
		"half an answer":       {says: answer(0, 0, uint64(pid))[:7], odd: true},
		"nothing":              {},
		"a socket of somebody": {says: answer(0, 0, uint64(pid)), nobody: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t) // makes the abstract name one of its own
			l := listen(t, "@"+dir+"/101/command", c.nobody)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 16))
					_, _ = conn.Write(c.says)
					conn.Close()
				}
			}()
			got, err := lxc.Open(t.Context(), dir, 101)
			if c.opens {
				require.NoError(t, err)
				got.Close()
				return
			}
			require.Error(t, err)
			require.Equal(t, !c.odd, errors.Is(err, lxc.ErrNotRunning), err)
		})
	}
}

func TestWhoTakesTheNameOfAMonitorIsNotBelieved(t *testing.T) {
	labtest.Need(t)
	dir := shortDir(t)
	_, err := lxc.Open(t.Context(), dir, 101)
	require.ErrorIs(t, err, lxc.ErrNotRunning, "nobody listens")
	listen(t, "@"+dir+"/101/command", true)
	_, err = lxc.Open(t.Context(), dir, 101)
	require.ErrorIs(t, err, lxc.ErrNotRunning)
	require.ErrorContains(t, err, "belongs to uid 65534")
}

// Of one that lets nobody in, nothing is known.
func TestWhoDoesNotAnswerForAMonitorIsNotAskedAgain(t *testing.T) {
	labtest.Need(t)
	for name, full := range map[string]bool{"it has too many callers": true, "it says nothing": false} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			at := &unix.SockaddrUnix{Name: "@" + dir + "/101/command"}
			socket := func(more int) int {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|more, 0)
				require.NoError(t, err)
				t.Cleanup(func() { unix.Close(fd) })
				return fd
			}
			l := socket(0)
			require.NoError(t, unix.Bind(l, at))
			require.NoError(t, unix.Listen(l, 0))
			if full {
				require.NoError(t, unix.Connect(socket(0), at))
				require.ErrorIs(t, unix.Connect(socket(unix.SOCK_NONBLOCK), at), unix.EAGAIN)
			}
			_, err := lxc.Open(t.Context(), dir, 101)
			require.ErrorContains(t, err, "its command socket does not answer")
			require.NotErrorIs(t, err, lxc.ErrNotRunning)
		})
	}
}

// listen makes the socket of a monitor, as root or as another user.
func listen(t *testing.T, name string, nobody bool) net.Listener {
	t.Helper()
	made := make(chan error)
	var l net.Listener
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if nobody {
			// Of this thread alone, unlike syscall.Setresuid.
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
				made <- e
				return
			}
		}
		var err error
		l, err = net.Listen("unix", name)
		made <- err
	}()
	require.NoError(t, <-made)
	t.Cleanup(func() { l.Close() })
	return l
}

// shortDir is a folder whose name fits into the name of a socket, unlike that of
// t.TempDir, which holds the test's own.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
