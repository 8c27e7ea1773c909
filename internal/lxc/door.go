package lxc

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Every path below a container's root is resolved in this file, and used with the
// identity of the container's root. Other code only opens a name in a folder that was
// resolved here, and does not follow it if it is a link.

// resolve opens a name below dir. The kernel resolves it: absolute links and
// ".." stay inside dir, and the magic links of /proc, which would lead out, are
// refused. The kernel answers EAGAIN when the container renames a folder at that
// moment, so it is asked again, up to 128 times.
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
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | more,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NOCTTY
	}
	var err error
	for range 128 {
		var fd int
		fd, err = unix.Openat2(dir, name, &how)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return -1, err
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

// as runs fn with the file-system identity of the container's root. So this process
// cannot read or write what that root may not, for instance a file of the host that is
// bind-mounted into an unprivileged container. New files belong to the container's
// root from the first moment. Only this thread has the identity, so fn must not leave
// work to other goroutines.
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
		// The thread stays locked and ends with its goroutine, so nothing else
		// runs on it.
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

// access does something in a folder, inside as. Root in a container may do so whatever
// the folder's mode, if its owner and group are the container's: in one of another user,
// or in /usr/bin of Fedora, which nobody may write to by its mode (0555). The identity
// that as gives may not. So that one capability is added where the kernel's rule allows it.
func (c *Container) access(dir int, fn func() (int, error)) (int, error) {
	n, err := fn()
	if c.uid == 0 || !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return n, err
	}
	var st unix.Stat_t
	if serr := unix.Fstat(dir, &st); serr != nil || !c.uids.hasHost(int64(st.Uid)) || !c.gids.hasHost(int64(st.Gid)) {
		return n, err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData // of this thread
	if cerr := unix.Capget(&header, &had[0]); cerr != nil {
		return n, errors.Join(err, cerr)
	}
	more := had
	more[0].Effective |= 1 << unix.CAP_DAC_OVERRIDE
	if cerr := unix.Capset(&header, &more[0]); cerr != nil {
		return n, errors.Join(err, cerr)
	}
	n, err = fn()
	return n, errors.Join(err, unix.Capset(&header, &had[0]))
}
