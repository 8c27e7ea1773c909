package say

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// listen stands in for journald.
func listen(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "j") // short, for the name of a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "socket")
	at(t, file)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: file, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	return conn
}

func at(t *testing.T, file string) {
	old := journalSocket
	journalSocket = file
	t.Cleanup(func() { journalSocket = old })
}

// next is the next entry's lines, sorted.
func next(t *testing.T, conn *net.UnixConn) []string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(buf[:n]), "\n"), "\n")
	slices.Sort(lines)
	return lines
}

func TestTheJournalGetsFields(t *testing.T) {
	conn := listen(t)
	var out bytes.Buffer
	log, err := New(&out, "text", "info")
	require.NoError(t, err)
	log.ToJournal()
	log = log.For(101)
	log.Debug("not said, so not sent")
	log.With("result", "installed").With("version", "580.142").With("step", "push").With("no such/name", 1).With("empty", "").Info("done\nPRIORITY=0")
	require.Equal(t, []string{"DRIVER_VERSION=580.142", "MESSAGE=container 101: done PRIORITY=0", "PRIORITY=6", "RESULT=installed", "STEP=push",
		"SYSLOG_IDENTIFIER=pve-nvidia-hook", "VMID=101"}, next(t, conn))
	log.Fail(hint.Errorf("do this", "it broke"))
	require.Equal(t, []string{"MESSAGE=container 101: it broke", "PRIORITY=3", "SYSLOG_IDENTIFIER=pve-nvidia-hook", "VMID=101"}, next(t, conn))
	require.Contains(t, next(t, conn), "MESSAGE=container 101: hint: do this")
	require.Equal(t, "pve-nvidia-hook 101: done PRIORITY=0\npve-nvidia-hook 101: error: it broke\npve-nvidia-hook 101: hint: do this\n", out.String(),
		"the task log has it too")
}

func TestAJournalThatIsAbsentOrFullDelaysNothing(t *testing.T) {
	listen(t) // and never read
	for name, file := range map[string]string{"full": journalSocket, "absent": filepath.Join(t.TempDir(), "none")} {
		t.Run(name, func(t *testing.T) {
			at(t, file)
			var out bytes.Buffer
			log, err := New(&out, "text", "info")
			require.NoError(t, err)
			log.ToJournal()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 5000 { // the kernel's queue of a socket holds far fewer
					log.Info("x")
				}
			}()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("it waits for the journal")
			}
			require.Equal(t, 5000, strings.Count(out.String(), "\n"))
		})
	}
}

func TestInAUnitEntriesStandInForLines(t *testing.T) {
	conn := listen(t)
	// What systemd gives a unit: stderr, and its device and inode in a variable.
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer file.Close()
	saved, err := syscall.Dup(2)
	require.NoError(t, err)
	require.NoError(t, syscall.Dup3(int(file.Fd()), 2, 0))
	defer func() { require.NoError(t, errors.Join(syscall.Dup3(saved, 2, 0), syscall.Close(saved))) }()
	var st syscall.Stat_t
	require.NoError(t, syscall.Fstat(2, &st))
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))

	log, err := New(os.Stderr, "text", "info")
	require.NoError(t, err)
	log.ToJournal()
	log.Info("with fields")
	require.Contains(t, next(t, conn), "MESSAGE=with fields")
	conn.Close()
	log.Info("the journal has gone")
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Equal(t, "pve-nvidia-hook: the journal has gone\n", string(text))
}

func BenchmarkJournal(b *testing.B) {
	for b.Loop() {
		log, _ := New(&bytes.Buffer{}, "text", "info")
		log.ToJournal()
		log.Info("driver 580.142 is in place")
		syscall.Close(log.Logger.Hooks[log.Logger.Level][0].(*toJournal).fd)
	}
}
