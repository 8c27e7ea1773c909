package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func every(string) bool { return true }

func TestKernelLogIsReadAsDmesgShowsIt(t *testing.T) {
	root := t.TempDir()
	put(t, root, "dev/kmsg", "5,0,0,-;Linux version 6.8.12-4-pve\n"+
		"6,700,3100000,-;pci 0000:01:00.0: bridge\n SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n"+
		"no record\n"+
		`3,900,61000042,-,caller=T1;NVRM: The NVIDIA GPU 0000:01:00.0\x0aNVRM: fallen off the bus`+"\n")
	lines, err := KernelLog(root, func(s string) bool { return strings.HasPrefix(s, "NVRM") })
	require.NoError(t, err)
	require.Equal(t, []string{"[61.000042] NVRM: The NVIDIA GPU 0000:01:00.0 NVRM: fallen off the bus"}, lines)
	lines, err = KernelLog(root, every)
	require.NoError(t, err)
	require.Len(t, lines, 3)

	_, err = KernelLog(t.TempDir(), every)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The real log ends in a read that would wait for the next message.
func TestKernelLogOfThisMachineEnds(t *testing.T) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("the kernel's log needs more rights: ", err)
	}
	message := fmt.Sprintf("pve-nvidia-hook test %d", os.Getpid())
	_, err = fmt.Fprintf(f, "<7>%s\n", message)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	begin := time.Now()
	lines, err := KernelLog("", func(s string) bool { return s == message })
	require.NoError(t, err)
	require.Len(t, lines, 1)
	require.Less(t, time.Since(begin), 2*maxLogTime)
}

func TestKernelLogThatIsAPipeIsNotWaitedFor(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "dev"), 0o755))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "dev/kmsg"), 0o600))
	held, err := os.OpenFile(filepath.Join(root, "dev/kmsg"), os.O_RDWR, 0) // a writer, so that a read would wait
	require.NoError(t, err)
	defer held.Close()
	lines, err := KernelLog(root, every)
	require.NoError(t, err)
	require.Empty(t, lines)
}

func FuzzKernelLog(f *testing.F) {
	f.Add("5,0,0,-;Linux version\n DEVICE=x\n", "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.")
	f.Add("6,1,99999999999999999999,-;x\n;;;\n,,,;\n", `a\x0ab`)
	root := inMemory(f)
	f.Fuzz(func(t *testing.T, before, message string) {
		if strings.ContainsAny(message, "\n\\") {
			return
		}
		if before != "" && !strings.HasSuffix(before, "\n") {
			before += "\n"
		}
		put(t, root, "dev/kmsg", before+"4,7,1000001,-;"+message+"\n")
		lines, err := KernelLog(root, every)
		require.NoError(t, err)
		require.LessOrEqual(t, len(lines), strings.Count(before, ";")+1)
		require.Equal(t, "[1.000001] "+message, lines[len(lines)-1])
	})
}
