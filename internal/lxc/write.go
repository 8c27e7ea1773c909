package lxc

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// TempPrefix begins the name of the temporary file that WriteFile makes in the
// folder of its target. One stays behind when this process is killed.
const TempPrefix = ".pve-nvidia-hook."

// WriteFile puts data at name by a temporary file and a rename, owned by the
// container's root. The folder must exist.
func (c *Container) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return pathError("write", name, c.as(func() error {
		dir, last, err := c.parent(name)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		tmp := TempPrefix + rand.Text()
		f, err := c.create(dir, tmp, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close())
		if err == nil {
			_, err = c.access(dir, func() (int, error) { return 0, unix.Renameat(dir, tmp, dir, last) })
		}
		if err != nil {
			_ = c.unlink(dir, tmp, 0)
			return err
		}
		return unix.Fsync(dir)
	}))
}

// Symlink makes a symbolic link, owned by the container's root. Something that is there
// already is an error that satisfies errors.Is(err, fs.ErrExist).
func (c *Container) Symlink(target, name string) error {
	return pathError("link", name, c.as(func() error {
		dir, last, err := c.parent(name)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		_, err = c.access(dir, func() (int, error) { return 0, unix.Symlinkat(target, dir, last) })
		return err
	}))
}

// copyStep is how much CopyIn writes before it looks at its context again.
const copyStep = 1 << 20

// CopyIn writes what r holds to a new file name (it must not exist), owned by
// the container's root, and syncs it. It returns the bytes written; after an
// error nothing is left at name.
func (c *Container) CopyIn(ctx context.Context, r io.Reader, name string, mode fs.FileMode) (int64, error) {
	var f *os.File
	dir, last := -1, ""
	err := c.as(func() (err error) {
		if dir, last, err = c.parent(name); err != nil {
			return err
		}
		f, err = c.create(dir, last, mode)
		return err
	})
	if dir >= 0 {
		defer unix.Close(dir)
	}
	if err != nil {
		return 0, pathError("copy to", name, err)
	}
	var written int64
	for buf := make([]byte, copyStep); err == nil; {
		if err = ctx.Err(); err != nil {
			break
		}
		var n int // the source is the host's, and may be slow
		if n, err = io.ReadFull(r, buf); errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		var put int
		wrong := c.guarded(func() (err error) { put, err = f.Write(buf[:n]); return err })
		if written += int64(put); wrong != nil {
			err = wrong
		}
	}
	if errors.Is(err, io.EOF) {
		err = c.guarded(f.Sync)
	}
	if err = errors.Join(err, c.guarded(f.Close)); err != nil {
		c.as(func() error { return c.unlink(dir, last, 0) })
		return written, pathError("copy to", name, err)
	}
	return written, nil
}

func (c *Container) guarded(f func() error) error {
	defer c.guard()()
	return f()
}

// create makes a file that was not there: O_EXCL follows no link at its end.
// The caller is inside as, so that it belongs to the container's root.
func (c *Container) create(dir int, last string, mode fs.FileMode) (*os.File, error) {
	fd, err := c.access(dir, func() (int, error) {
		return unix.Openat(dir, last, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
	})
	if err != nil {
		return nil, err
	}
	if err := unix.Fchmod(fd, uint32(mode.Perm())); err != nil {
		unix.Close(fd)
		_ = c.unlink(dir, last, 0)
		return nil, err
	}
	return os.NewFile(uintptr(fd), last), nil
}

// MkdirAll makes a folder and its parents, owned by the container's root.
// Folders that are there keep their mode.
func (c *Container) MkdirAll(name string, mode fs.FileMode) error {
	return pathError("mkdir", name, c.as(func() error {
		return c.mkdirAll(strings.TrimRight(name, "/"), uint32(mode.Perm()))
	}))
}

func (c *Container) mkdirAll(name string, mode uint32) error {
	fd, err := c.resolve(c.root, name+"/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		if err := c.mkdirAll(strings.TrimRight(name[:i], "/"), mode); err != nil {
			return err
		}
	}
	dir, last, err := c.parent(name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	// The umask of the hook's caller is unknown, so the mode is set afterwards too, on
	// the folder that has this name by then.
	_, err = c.access(dir, func() (int, error) { return 0, unix.Mkdirat(dir, last, mode) })
	if err != nil {
		if errors.Is(err, unix.EEXIST) { // made meanwhile, or a link that leads nowhere
			fd, err := c.resolve(c.root, name+"/", unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}
		return err
	}
	made, err := c.resolve(dir, last, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK,
		unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	return unix.Fchmod(made, mode)
}
