package lxc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Info is what Stat and Lstat tell of a file below the container's root.
type Info struct {
	Mode fs.FileMode // type and permission bits, without setuid, setgid and sticky
	Size int64       // bytes
	Rdev uint64      // of a device node
	Time int64       // of the last change of the content, in ns since 1970
}

// Stat follows symbolic links, inside the container's root only.
// The error satisfies errors.Is(err, fs.ErrNotExist) when nothing is there.
func (c *Container) Stat(name string) (Info, error) {
	e := c.look("stat", name, 0)
	return e.Info, e.Err
}

// Lstat tells of the name itself.
func (c *Container) Lstat(name string) (Info, error) {
	e := c.look("lstat", name, unix.O_NOFOLLOW)
	return e.Info, e.Err
}

// Readlink returns the target of the symbolic link name, as it is written there.
func (c *Container) Readlink(name string) (string, error) {
	e := c.look("readlink", name, unix.O_NOFOLLOW)
	if e.Err == nil && e.Mode&fs.ModeSymlink == 0 {
		e.Err = pathError("readlink", name, unix.EINVAL)
	}
	return e.Target, e.Err
}

func (c *Container) look(op, name string, flags int) (e Entry) {
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_PATH|flags, 0)
		if err == nil {
			e, err = entryOf(fd)
		}
		return err
	})
	e.Err = pathError(op, name, err)
	return e
}

// entryOf tells what an O_PATH descriptor stands for, and closes it.
func entryOf(fd int) (e Entry, err error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return e, err
	}
	e.Info = info(st)
	if e.Mode&fs.ModeSymlink != 0 {
		e.Target, err = readlinkAt(fd, "")
	}
	return e, err
}

func info(st unix.Stat_t) Info {
	return Info{Mode: fileMode(st.Mode), Size: st.Size, Rdev: uint64(st.Rdev), Time: st.Mtim.Nano()}
}

// ReadDir returns the names in a folder, sorted, and an error when there are more than most.
func (c *Container) ReadDir(name string, most int) ([]string, error) {
	var f *os.File
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	defer c.guard()()
	defer f.Close()
	names, err := f.Readdirnames(most + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, pathError("readdir", name, err)
	}
	if len(names) > most {
		return nil, pathError("readdir", name, fmt.Errorf("more than %d entries", most))
	}
	slices.Sort(names)
	return names, nil
}

// Free returns the bytes that root in the container can still write at name.
func (c *Container) Free(name string) (uint64, error) {
	var st unix.Statfs_t
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fstatfs(fd, &st)
	})
	if err != nil {
		return 0, pathError("statfs", name, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op + " in the container", Path: name, Err: err}
}

func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	return m
}
