package lxc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// File is a regular file of the container, open for reading.
type File struct {
	f      *os.File
	c      *Container
	fuse   bool // it lies on a FUSE file system, whose server may be in the container
	opened time.Time
}

// patience limits the reading of one file on a FUSE file system: a server that is
// only slow could hold up a start.
func patience() time.Duration { return 3 * stuckAfter }

// Read implements io.Reader. A read that a FUSE file system does not answer ends with
// an error.
func (f *File) Read(p []byte) (int, error) {
	if f.fuse && time.Since(f.opened) > patience() {
		return 0, fmt.Errorf("its FUSE file system takes more than %s to be read", patience())
	}
	defer f.guard()()
	return f.f.Read(p)
}

func (f *File) guard() (done func()) {
	if f.fuse {
		return f.c.guardRead()
	}
	return f.c.guard()
}

// Seek sets where the next Read begins.
func (f *File) Seek(offset int64, whence int) (int64, error) { return f.f.Seek(offset, whence) }

// Size is that of the file when it was opened, in bytes, as the file system tells.
func (f *File) Size() int64 {
	defer f.guard()()
	info, err := f.f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Close closes the file. A FUSE server is asked too, and may not answer.
func (f *File) Close() error {
	defer f.guard()()
	return f.f.Close()
}

// OpenFile opens a regular file for reading; anything else (a FIFO, a device, a
// folder, a file of /proc or /sys) is an error and is never waited for.
func (c *Container) OpenFile(name string) (*File, error) {
	f := &File{c: c, opened: time.Now()}
	err := c.as(func() error {
		fd, err := c.resolve(c.root, name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// Only a regular file is opened: to open a device or a FIFO can wait or do
		// something.
		if err := regular(fd); err != nil {
			return err
		}
		var fsys unix.Statfs_t
		f.fuse = unix.Fstatfs(fd, &fsys) == nil && int64(fsys.Type) == unix.FUSE_SUPER_MAGIC
		f.f, err = reopen(fd, name)
		return err
	})
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

// ReadFile reads a regular file of at most limit bytes; a larger one is an error.
func (c *Container) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := c.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var data bytes.Buffer
	data.Grow(int(min(f.Size(), limit)) + bytes.MinRead) // so that it is read at once
	if _, err := data.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, pathError("read", name, err)
	}
	if int64(data.Len()) > limit {
		return nil, pathError("read", name, fmt.Errorf("larger than %d bytes", limit))
	}
	return data.Bytes(), nil
}

// regular refuses what is no regular file, and those of the kernel's own file
// systems, which can block, or do something when read.
func regular(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return fmt.Errorf("not a regular file (%s)", fileMode(st.Mode).Type())
	}
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(fd, &fsys); err != nil {
		return err
	}
	switch int64(fsys.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
		unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.SELINUX_MAGIC, unix.NSFS_MAGIC, unix.BINFMTFS_MAGIC:
		return errors.New("it lies on a file system of the kernel")
	}
	return nil
}

// reopen opens what an O_PATH descriptor stands for. Without O_NONBLOCK a lease
// that a process of the container holds on the file would make it wait.
func reopen(fd int, name string) (*os.File, error) {
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// A file with O_NONBLOCK is given to the runtime's poller. That asks a FUSE server,
	// and everything that is polled would wait for its answer.
	if err := unix.SetNonblock(again, false); err != nil {
		unix.Close(again)
		return nil, err
	}
	return os.NewFile(uintptr(again), name), nil
}
