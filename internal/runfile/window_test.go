package runfile

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fixed is what decompression may hold beside the window: blocks on their way,
// tables, what Go has in reserve.
const fixed = 16 << 20

// A payload is taken at every level at which a tool may have packed it, and costs
// the window of that level and no more, however long it is.
func TestMemoryIsAFixedAmountAndTheWindow(t *testing.T) {
	for command, window := range map[string]int64{
		"zstd -c":                      2 << 20,
		"zstd -19 -c":                  8 << 20,
		"zstd --ultra -22 -c":          128 << 20,
		"zstd --long=27 -c":            128 << 20,
		"xz -c":                        8 << 20,
		"xz -9 -C none -c":             64 << 20,
		"xz -T2 --block-size=5MiB -c":  8 << 20,
		"xz --x86 --lzma2=preset=7 -c": 16 << 20,
		"gzip -c":                      0,
		"bzip2 -c":                     0,
	} {
		t.Run(strings.ReplaceAll(command, " ", ""), func(t *testing.T) {
			length := window + window/8 + 12<<20
			payload := packed(t, length, strings.Fields(command)...)
			held := memoryOf(t, func() {
				n, err := expanded(payload)
				require.NoError(t, err)
				require.Equal(t, length, n)
			})
			require.LessOrEqual(t, held, window+fixed)
		})
	}
}

func TestUnpackingHoldsLittleBesideTheWindow(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const size = 40 << 20
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size, Typeflag: tar.TypeReg}))
	_, err := io.CopyN(w, endless{}, size)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	file := spec{payload: zstdOf(t, b.Bytes())}.build()
	b = bytes.Buffer{}
	held := memoryOf(t, func() {
		_, err := Unpack(t.Context(), bytes.NewReader(file), target(t), wantOf(file))
		require.NoError(t, err)
	})
	require.LessOrEqual(t, held, int64(8<<20+fixed))
}

// The window before is not collected at once, so one that grows again and again costs several.
func TestWindowThatGrowsIsRefused(t *testing.T) {
	const mb64 = 16 << 3 // as zstd writes it; each step is 8 MB more
	var up, down []byte
	for step := range byte(8) {
		up = append(up, zstdZeros(mb64+step, 130<<20)...)
		down = append(down, zstdZeros(mb64+7-step, 130<<20)...)
	}
	for name, c := range map[string]struct {
		payload []byte
		says    string
	}{
		"zstd":                {up, errGrows.Error()},
		"zstd in one segment": {zstdSegment(1 << 40), "zstd payload wants a window of 1099511 MB, more than 134 MB"},
		"into a segment":      {append(zstdZeros(mb64, 1<<20), zstdSegment(128<<20)...), errGrows.Error()},
		"xz":                  {append(xzOf(t, []byte("x")), bigDictionary(t)...), errGrows.Error()},
		"xz, nothing first":   {append([]byte(xzEmpty), bigDictionary(t)...), "xz payload starts with an empty stream"},
	} {
		t.Run(name, func(t *testing.T) {
			held := memoryOf(t, func() {
				_, err := expanded(c.payload)
				require.ErrorContains(t, err, c.says)
			})
			require.LessOrEqual(t, held, int64(64<<20+fixed))
		})
	}
	held := memoryOf(t, func() {
		n, err := expanded(down)
		require.NoError(t, err, "what shrinks is held once")
		require.EqualValues(t, 8*130<<20, n)
	})
	require.LessOrEqual(t, held, int64(maxWindow+fixed))
}

// packed are n zeros by a command that compresses. They cost little to compress
// and fill a window as anything does.
func packed(t *testing.T, n int64, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = io.LimitReader(endless{}, n)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("no %s here", command[0])
	}
	require.NoError(t, err)
	return out
}

// expanded decompresses a payload and returns how many bytes it held.
func expanded(payload []byte) (n int64, err error) {
	r, w := io.Pipe()
	done := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, r)
		done <- n
	}()
	err = expand(bufioOf(payload), w, 4<<30)
	w.Close()
	return <-done, err
}

// memoryOf returns the most bytes of memory that the process held while do ran,
// beyond what it held before; under the race detector, which takes several times
// as much, 0.
func memoryOf(t *testing.T, do func()) int64 {
	t.Helper()
	if raced {
		do()
		return 0
	}
	debug.FreeOSMemory()
	if err := resetPeak(); err != nil {
		t.Skip("the peak of this process cannot be set back: ", err)
	}
	before := memory(t, "VmRSS:")
	do()
	return memory(t, "VmHWM:") - before
}

// resetPeak lets VmHWM start anew from what is held now.
func resetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// memory returns a number of this process's status in bytes.
func memory(t testing.TB, name string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "\n"+name)
	var kb int64
	_, err = fmt.Sscan(rest, &kb)
	require.NoError(t, err)
	return kb << 10
}
