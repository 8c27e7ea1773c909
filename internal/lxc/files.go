package lxc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Info is what Stat and Lstat tell of a file below the container's root.
type Info struct {
	Mode fs.FileMode // type and permission bits
	Size int64       // bytes
	Rdev uint64      // of a device node
	UID  uint32      // owner as the host sees it
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
	return Info{Mode: fileMode(st.Mode), Size: st.Size, Rdev: uint64(st.Rdev), UID: st.Uid}
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

// File is a regular file of the container, open for reading.
type File struct {
	f *os.File
	c *Container
	// fuse: a server in the container may stand behind it. The kernel's stack
	// does not always show that a read waits for one.
	fuse   bool
	opened time.Time
}

// patience is how long the reading of one file may take in all where a FUSE
// server stands behind it: one that is only slow would else hold up a start.
func patience() time.Duration { return 3 * stuckAfter }

// Read reads as io.Reader says. One that a FUSE file system leaves waiting is
// cut off.
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

// Close ends the use of the file, of which a FUSE server is told and waited for.
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
		// Only now, when it is known to be a regular file, it is opened:
		// opening a device or a FIFO can wait or do something.
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

// LockedBy tells whether a process holds a POSIX lock on a regular file, as
// package tools do, and which, as the host numbers it (0: one of another host).
func (c *Container) LockedBy(name string) (pid int, locked bool, err error) {
	f, err := c.OpenFile(name)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	defer c.guard()()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, false, pathError("getlk", name, err)
	}
	return max(int(lock.Pid), 0), lock.Type != unix.F_UNLCK, nil
}

// ReadFile reads a regular file of at most limit bytes; a larger one is an error.
func (c *Container) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := c.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, pathError("read", name, err)
	}
	if int64(len(data)) > limit {
		return nil, pathError("read", name, fmt.Errorf("larger than %d bytes", limit))
	}
	return data, nil
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

// resolve opens a name below dir. The kernel resolves it: absolute links and
// ".." stay inside dir, and the magic links of /proc, which would lead out, are
// refused. A rename by the container at the wrong moment makes it answer
// EAGAIN, which is why it asks again, but not for ever.
func (c *Container) resolve(dir int, name string, flags int, more uint64) (int, error) {
	if err := c.alive(); err != nil {
		return -1, err
	}
	return c.below(dir, name, flags, more)
}

// below is resolve in a folder that was resolved a moment ago.
func (c *Container) below(dir int, name string, flags int, more uint64) (int, error) {
	if name == "" {
		return -1, unix.ENOENT
	}
	dir, name, no, err := c.base(dir, name)
	if err != nil {
		return -1, err
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | more | no,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NOCTTY
	}
	for range 128 {
		var fd int
		fd, err = unix.Openat2(dir, name, &how)
		if err == nil {
			return fd, nil
		}
		if c.local && (errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINVAL)) {
			c.beyond.Store(true) // EINVAL: the kernel has no RESOLVE_CACHED
			return -1, err
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return -1, err
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
	// With it, os.NewFile would have the runtime poll the file, which asks a FUSE
	// server, and all that is polled would wait for its answer.
	if err := unix.SetNonblock(again, false); err != nil {
		unix.Close(again)
		return nil, err
	}
	return os.NewFile(uintptr(again), name), nil
}

// as runs fn with the file-system identity of the container's root: what root
// in an unprivileged container may not read or write (a host's file that is
// bind-mounted into it, for instance), this process does not touch for it
// either, and new files belong to the container's root from the first moment.
// The identity is of a thread, so fn must not leave work to other goroutines.
func (c *Container) as(fn func() error) error {
	defer c.guard()()
	if c.uid == 0 && c.gid == 0 {
		return fn()
	}
	runtime.LockOSThread()
	groups, err := unix.Getgroups()
	if err == nil {
		err = identity(nil, c.uid, c.gid)
	}
	if err == nil {
		err = fn()
	}
	if back := identity(groups, 0, 0); back != nil {
		// The thread stays locked, and so ends with its goroutine: nothing
		// else runs on it.
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// identity sets groups, fsgid and fsuid of this thread. setfsuid(2) reports no
// errors; asking again with -1, which never changes anything, tells.
func identity(groups []int, uid, gid int) error {
	if err := unix.Setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	unix.SetfsgidRetGid(gid)
	unix.SetfsuidRetUid(uid)
	nowGID, _ := unix.SetfsgidRetGid(-1)
	nowUID, _ := unix.SetfsuidRetUid(-1)
	if nowUID != uid || nowGID != gid {
		return fmt.Errorf("act as uid %d, gid %d: the kernel refuses", uid, gid)
	}
	return nil
}

// parent opens the folder of name and returns the last part of name.
func (c *Container) parent(name string) (dir int, last string, err error) {
	trimmed := strings.TrimRight(name, "/")
	i := strings.LastIndexByte(trimmed, '/')
	folder, last := "/"+trimmed[:max(i, 0)], trimmed[i+1:]
	if last == "" || last == "." || last == ".." {
		return -1, "", unix.EINVAL
	}
	dir, err = c.resolve(c.root, folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	return dir, last, err
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
