package fakerun

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Write writes the run file that s describes into the folder dir, which it makes, and
// beside it a .sha256sum in the form of NVIDIA's servers. The same s gives the same bytes.
// It returns the run file's path. It takes about 60 MB of memory whatever the size, and some 10 s for
// 400 MB on two cores.
func Write(dir string, s Spec) (string, error) {
	s = s.withDefaults()
	path := filepath.Join(dir, s.Name())
	if err := s.check(); err != nil {
		return "", fmt.Errorf("write a sample run file: %w", err)
	}
	if err := write(path, s); err != nil {
		return "", fmt.Errorf("write sample %s: %w", path, err)
	}
	return path, nil
}

func write(path string, s Spec) error {
	var embedded []byte
	if !s.NoDecompressor && s.Compression != "gzip" {
		var err error
		if embedded, err = decompressor(s.Arch); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	body, err := os.CreateTemp(filepath.Dir(path), ".sample-")
	if err != nil {
		return err
	}
	defer os.Remove(body.Name())
	defer body.Close()
	top, err := writeBody(body, s, embedded)
	if err != nil {
		return err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}

	out, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer out.Cleanup()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, hash), io.MultiReader(bytes.NewReader([]byte(top)), body)); err != nil {
		return err
	}
	sum := fmt.Sprintf("%x  %s\n", hash.Sum(nil), filepath.Base(path))
	if err := os.WriteFile(path+".sha256sum", []byte(sum), 0o644); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace()
}

// writeBody writes all but the first three lines to w and returns those, which hold the
// sums of the rest.
func writeBody(w io.Writer, s Spec, embedded []byte) (string, error) {
	content := newPayload(s, s.Size-int64(len(embedded)))
	crc, md := &cksum{}, md5.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(w, crc, md), 1<<20)
	if _, err := buffered.WriteString(headerBody(s, bytes.Count(embedded, []byte("\n")), content.unpacked())); err != nil {
		return "", err
	}
	if _, err := buffered.Write(embedded); err != nil {
		return "", err
	}
	packer, err := newPacker(buffered, s.Compression)
	if err != nil {
		return "", err
	}
	if s.Tar != nil {
		err = s.Tar(packer)
	} else {
		err = content.writeTar(packer, s)
	}
	if err != nil {
		return "", err
	}
	if err := packer.Close(); err != nil {
		return "", err
	}
	if err := buffered.Flush(); err != nil {
		return "", err
	}
	return headerTop(crc.sum(), md.Sum(nil)), nil
}

func newPacker(w io.Writer, compression string) (io.WriteCloser, error) {
	switch compression {
	case "gzip":
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case "xz":
		return xz.WriterConfig{NoCheckSum: true}.NewWriter(w)
	default:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	}
}
