package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// maxFile is the most that a configuration file may hold, in bytes; pmxcfs
// takes no larger files either.
const maxFile = 1 << 20

// errMissing means that a configuration file is not there.
var errMissing = errors.New("no such file")

// readFile reads a configuration file. What stands in it runs as root in the
// containers, so nobody but its owner may be able to write it, and the owner is root
// or who runs this program.
func readFile(name string) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, errMissing
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be opened: %w", bare(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", bare(err))
	}
	if err := trusted(info, name); err != nil {
		return nil, err
	}
	// One byte of room beyond the size lets the read that fills the buffer see the end.
	data := make([]byte, min(info.Size(), maxFile)+1)
	n, err := io.ReadFull(f, data)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot be read: %w", bare(err))
	}
	if err == nil {
		if n > maxFile {
			return nil, fmt.Errorf("is larger than %d bytes", maxFile)
		}
		return nil, errors.New("grew while it was read")
	}
	return data[:n], nil
}

func trusted(info fs.FileInfo, name string) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("is writable by others (mode %04o): chmod go-w %s", mode, name)
	}
	if uid, ok := trust.Owner(info); !ok {
		return fmt.Errorf("belongs to user %d, not to root: chown root %s", uid, name)
	}
	return nil
}

// bare takes the path off an error: it stands at the start of the line already.
func bare(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
