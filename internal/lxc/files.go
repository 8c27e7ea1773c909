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
	Mode fs.FileMode // type and permission bits
	Size int64       // bytes
	Rdev uint64      // of a device node
	UID  uint32      // owner as the host sees it
	Time int64       // of the last change of the content, in ns since 1970
}

// Stat follows symbolic links, inside the container's root only.
// The error satisfies errors.Is(err, fs.ErrNotExist) when nothing is there.
func (c *Container) Stat(name string) (Info, error) { return c.stat("stat", name, 0) }

// Lstat tells of the name itself.
func (c *Container) Lstat(name string) (Info, error) { return c.stat("lstat", name, unix.O_NOFOLLOW) }

func (c *Container) stat(op, name string, flags int) (Info, error) {
	var st unix.Stat_t
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_PATH|flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fstat(fd, &st)
	})
	if err != nil {
		return Info{}, pathError(op, name, err)
	}
	return info(st), nil
}

func info(st unix.Stat_t) Info {
	return Info{Mode: fileMode(st.Mode), Size: st.Size, Rdev: uint64(st.Rdev), UID: st.Uid, Time: st.Mtim.Nano()}
}

// Readlink returns the target of the symbolic link name, as it is written there.
func (c *Container) Readlink(name string) (string, error) {
	var target string
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return unix.EINVAL
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		target = string(buf[:max(n, 0)])
		return err
	})
	return target, pathError("readlink", name, err)
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
	if mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}
