package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// What finds a container's init process and checks that it is the right one.

// initPid asks the container's monitor. A container without a monitor is stopped, or is
// unknown to LXC when it has no configuration file.
func initPid(lxcPath, name string) (int, error) {
	pid, err := askInitPid(lxcPath, name)
	switch {
	case errors.Is(err, errImpostor), errors.Is(err, errUnseen):
		return 0, hint.Wrap(err, "see which process has it: ss -xlp | grep "+name+"/command")
	case errors.Is(err, errNobody):
		if _, err := os.Stat(filepath.Join(lxcPath, name, "config")); errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%w %s below %s", ErrUnknown, name, lxcPath)
		}
		return 0, ErrNotRunning
	}
	return pid, err
}

// pin opens what stands for the init process.
//
// Since LXC told the process id, that process may have died, and another may have the
// number. A pidfd and an open /proc/PID stay with one process. They show that this one
// is the init of a pid namespace, has its own mount namespace, and is still alive after
// its root was opened.
func (c *Container) pin() error {
	gone := func(err error) error {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			return ErrNotRunning
		}
		return err
	}
	var err error
	if c.pidfd, err = unix.PidfdOpen(c.pid, 0); err != nil {
		return gone(fmt.Errorf("pidfd of process %d: %w", c.pid, err))
	}
	if c.proc, err = unix.Open("/proc/"+strconv.Itoa(c.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return gone(fmt.Errorf("look at process %d: %w", c.pid, err))
	}
	if err := c.checkInit(); err != nil {
		return gone(fmt.Errorf("process %d: %w", c.pid, err))
	}
	if c.root, err = unix.Openat(c.proc, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return gone(fmt.Errorf("root of process %d: %w", c.pid, err))
	}
	if err := c.readIDs(); err != nil {
		return gone(err)
	}
	return c.alive()
}

// readIDs learns which ids of the host are the container's.
//
// A privileged container's init can unshare its user namespace and so show the
// uid_map of an unprivileged one. What it cannot leave is its pid namespace, and
// that belongs for good to the user namespace which the container was started
// with (NS_GET_USERNS of ioctl_nsfs(2)). So the two must be the same.
func (c *Container) readIDs() error {
	theirs, err := namespace(c.proc, "ns/user")
	if err != nil {
		return err
	}
	started, err := userNamespaceOf(c.proc, "ns/pid")
	if err != nil {
		return err
	}
	if theirs != started {
		return hint.Errorf("look in the container for a program that changes its init, then restart the container",
			"its init process (%d) has left the user namespace that it was started in", c.pid)
	}
	ours, err := namespace(unix.AT_FDCWD, "/proc/self/ns/user")
	if err != nil {
		return err
	}
	if started == ours {
		// Asked for it, the kernel would tell the map of our own user namespace
		// into the one above, if this host is a container itself.
		c.uids, c.gids = idMap{{count: 1 << 32}}, idMap{{count: 1 << 32}}
		return nil
	}
	for _, m := range []struct {
		file string
		all  *idMap
		root *int
	}{{"uid_map", &c.uids, &c.uid}, {"gid_map", &c.gids, &c.gid}} {
		text, err := readAt(c.proc, m.file, 64<<10)
		if err != nil {
			return err
		}
		if *m.all, err = parseIDMap(string(text)); err != nil {
			return fmt.Errorf("%s of process %d: %w", m.file, c.pid, err)
		}
		root, ok := m.all.toHost(0)
		if !ok {
			return fmt.Errorf("%s of process %d maps no root", m.file, c.pid)
		}
		*m.root = int(root)
	}
	return nil
}

// checkInit makes sure that the process is the first of a pid namespace below
// ours and has a mount namespace of its own.
func (c *Container) checkInit() error {
	pids, err := namespacePids(c.proc, "status")
	if err != nil {
		return err
	}
	if len(pids) < 2 || pids[len(pids)-1] != "1" {
		return fmt.Errorf("%w: it is not the init of a pid namespace", ErrNotRunning)
	}
	theirs, err := readlinkAt(c.proc, "ns/mnt")
	if err != nil {
		return err
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if theirs == ours {
		return fmt.Errorf("%w: it has the host's mount namespace", ErrNotRunning)
	}
	return nil
}

// nsID tells one namespace from all others.
type nsID struct{ dev, ino uint64 }

// namespace identifies the namespace behind a link of /proc/PID/ns.
func namespace(dir int, name string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, 0); err != nil {
		return nsID{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return nsID{st.Dev, st.Ino}, nil
}

// userNamespaceOf identifies the user namespace that another namespace belongs to.
func userNamespaceOf(dir int, name string) (nsID, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nsID{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	owner, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		return nsID{}, fmt.Errorf("owner of namespace %s: %w", name, err)
	}
	defer unix.Close(owner)
	var st unix.Stat_t
	if err := unix.Fstat(owner, &st); err != nil {
		return nsID{}, err
	}
	return nsID{st.Dev, st.Ino}, nil
}

// installLXC is the hint when programs of LXC are missing. On a node of Proxmox VE
// the package lxc would replace lxc-pve and remove pve-container.
const installLXC = "apt-get install lxc, or lxc-pve on a node of Proxmox VE"

// hostEnv is for the programs of LXC on the host.
func hostEnv() []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return []string{"PATH=" + path, "LC_ALL=C"}
}
