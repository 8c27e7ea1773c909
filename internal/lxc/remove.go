package lxc

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Limits of RemoveAll: a container can nest and fill folders without end.
const (
	removeDepth   = 64
	removeEntries = 1_000_000
)

// Remove removes one file, link or empty folder; what is not there is no error.
func (c *Container) Remove(name string) error {
	return pathError("remove", name, c.as(func() error {
		dir, last, err := c.parent(name)
		if err == nil {
			defer unix.Close(dir)
			if err = c.unlink(dir, last, 0); errors.Is(err, unix.EISDIR) {
				err = c.unlink(dir, last, unix.AT_REMOVEDIR)
			}
		}
		return ignoreMissing(err)
	}))
}

// RemoveAll removes name and all below it. It follows no link and enters no
// other mount.
func (c *Container) RemoveAll(name string) error {
	return pathError("remove", name, c.as(func() error {
		dir, last, err := c.parent(name)
		if err != nil {
			return ignoreMissing(err)
		}
		defer unix.Close(dir)
		left := removeEntries
		return ignoreMissing(c.removeAll(dir, last, removeDepth, &left))
	}))
}

func (c *Container) removeAll(dir int, name string, depth int, left *int) error {
	if *left--; *left < 0 {
		return fmt.Errorf("more than %d entries", removeEntries)
	}
	err := c.unlink(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return ignoreMissing(err)
	}
	if depth == 0 {
		return fmt.Errorf("folders nest deeper than %d", removeDepth)
	}
	// The folder is held by its descriptor: wherever the container moves it
	// meanwhile, only entries of this folder are removed.
	fd, err := c.access(dir, func() (int, error) {
		return c.resolve(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK,
			unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	})
	if err != nil {
		return ignoreMissing(err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for range 3 { // somebody may add entries meanwhile
		if err := c.empty(f, depth, left); err != nil {
			return err
		}
		if err = c.unlink(dir, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOTEMPTY) {
			return ignoreMissing(err)
		}
	}
	return err
}

func (c *Container) empty(f *os.File, depth int, left *int) error {
	for round := 0; ; round++ {
		// Removing while reading may skip entries: read from the start until
		// nothing is found.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := f.Readdirnames(1024)
		if len(names) == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		for _, name := range names {
			if err := c.removeAll(int(f.Fd()), name, depth-1, left); err != nil {
				return err
			}
		}
	}
}

// unlink removes an entry of a folder.
func (c *Container) unlink(dir int, name string, flags int) error {
	_, err := c.access(dir, func() (int, error) { return 0, unix.Unlinkat(dir, name, flags) })
	if errors.Is(err, unix.EPERM) {
		// POSIX systems say so for a folder too; Linux says EISDIR.
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// ignoreMissing returns nil for an error that says that there is nothing.
func ignoreMissing(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
