package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// ReadFile reads a file of at most limit bytes from a folder that CheckDir has
// passed. It follows no link, and reads only what root (or this user) has put there
// and nobody else may write: others may have been able to write to the folder once.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err == nil {
		defer f.Close()
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil {
			err = trust.File(path, st)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, hint.Wrap(err, "remove "+path+": it is made anew when it is needed")
	}
	return readAtMost(f, limit)
}

// WriteFile writes a file of the folder in one rename, synced. Its mode is 0644,
// also in place of a file with another mode.
func WriteFile(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o644, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o644))
}

// readSmall reads a small regular file, whoever owns it, and follows no link.
func readSmall(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, maxSmall)
}

func readAtMost(f *os.File, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("read %s: larger than %d bytes", f.Name(), limit)
	}
	return text, err
}

// openRegular opens a regular file for reading and follows no link.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("open %s: it is a symbolic link", path)
	}
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("open %s: not a regular file", path), err)
	}
	return f, nil
}
