package runfile

import (
	"archive/tar"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// noise compresses about as well as NVIDIA's payloads do: to some 28 %.
type noise struct {
	rnd  *rand.ChaCha8
	tail []byte
}

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		if len(n.tail) == 0 {
			var word [64]byte
			v := n.rnd.Uint64()
			for j := 0; j < 64; j += 8 {
				binary.LittleEndian.PutUint64(word[j:], v)
			}
			binary.LittleEndian.PutUint64(word[8:], n.rnd.Uint64())
			n.tail = word[:]
		}
		p[i], n.tail = n.tail[0], n.tail[1:]
	}
	return len(p), nil
}

// bigRunFile writes a run file that unpacks to the given number of bytes.
func bigRunFile(b *testing.B, path string, unpacked int64) int64 {
	payload, err := os.Create(path + ".payload")
	require.NoError(b, err)
	defer os.Remove(payload.Name())
	z, err := zstd.NewWriter(payload, zstd.WithWindowSize(8<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(b, err)
	w := tar.NewWriter(z)
	src := &noise{rnd: rand.NewChaCha8([32]byte{1})}
	const size = 20 << 20
	for i := range unpacked / size {
		require.NoError(b, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("./lib%03d.so", i), Mode: 0o755, Size: size, Typeflag: tar.TypeReg}))
		_, err := io.CopyN(w, src, size)
		require.NoError(b, err)
	}
	require.NoError(b, w.Close())
	require.NoError(b, z.Close())

	// Line 4 on is what the MD5 covers: fill it in afterwards.
	head := strings.SplitN(string(spec{}.build()), "\n", 4)
	sum := md5.New()
	io.WriteString(sum, head[3])
	_, err = payload.Seek(0, io.SeekStart)
	require.NoError(b, err)
	_, err = io.Copy(sum, payload)
	require.NoError(b, err)
	f, err := os.Create(path)
	require.NoError(b, err)
	defer f.Close()
	fmt.Fprintf(f, "%s\n%s\nMD5=%x\n%s", head[0], head[1], sum.Sum(nil), head[3])
	_, err = payload.Seek(0, io.SeekStart)
	require.NoError(b, err)
	_, err = io.Copy(f, payload)
	require.NoError(b, err)
	i, err := f.Stat()
	require.NoError(b, err)
	return i.Size()
}

// BenchmarkUnpack reads a run file of the size of a genuine one, 1.5 GB unpacked.
// MB/s is of the run file; peak-MB is the most memory that this process has had.
func BenchmarkUnpack(b *testing.B) {
	path := filepath.Join(b.TempDir(), "big.run")
	size := bigRunFile(b, path, 1500<<20)
	runtime.GC()
	for _, kind := range []string{"check", "unpack"} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				f, err := os.Open(path)
				require.NoError(b, err)
				dir := ""
				if kind == "unpack" {
					dir = filepath.Join(filepath.Dir(path), "tree")
				}
				runtime.GC()
				_ = resetPeak()
				rep, err := Unpack(b.Context(), f, dir, Want{Version: "550.163.01"})
				require.NoError(b, err)
				f.Close()
				b.ReportMetric(float64(rep.Unpacked)/rep.Elapsed.Seconds()/1e6, "unpacked-MB/s")
				b.ReportMetric(float64(memory(b, "VmHWM:"))/1e6, "peak-MB")
				require.NoError(b, os.RemoveAll(filepath.Join(filepath.Dir(path), "tree")))
			}
		})
	}
}
