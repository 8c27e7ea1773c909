package lxc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

const (
	infoLimit = 10 * time.Second // for lxc-info, which takes some 3 ms
	pinLimit  = 5 * time.Second  // for looks at the init process, which take some 0.1 ms
)

// Container is a running container. It stays tied to the init process that it
// was opened with: after a reboot of the container it answers ErrNotRunning.
// Its methods may be called by several goroutines at once, Close excepted.
type Container struct {
	lxcPath string
	name    string
	pid     int
	pidfd   int
	proc    int // the folder /proc/PID; what is read through it is of this process or fails
	root    int
	uids    idMap
	gids    idMap
	uid     int // of the container's root, as the host sees it
	gid     int

	calls calls       // on its files
	quit  func() bool // ends the watch of Open's context

	closing sync.Mutex // what cuts off FUSE may be at it when the work has ended

	lost func() // see OnLost
}

// Open finds the init process of container VMID below lxcPath (for instance
// /var/lib/lxc) and pins its root. It returns ErrNotRunning when
// there is none. A call on its files that hangs when ctx ends is cut off.
func Open(ctx context.Context, lxcPath string, vmid int) (*Container, error) {
	c := &Container{lxcPath: lxcPath, name: strconv.Itoa(vmid), pidfd: -1, proc: -1, root: -1}
	err := c.open(ctx)
	switch {
	case errors.Is(err, ErrUnknown):
		return nil, err // which names it
	case err != nil:
		return nil, fmt.Errorf("open container %d: %w", vmid, err)
	}
	c.quit = context.AfterFunc(ctx, c.cancelled)
	return c, nil
}

func (c *Container) open(ctx context.Context) error {
	var err error
	if c.pid, err = initPid(ctx, c.lxcPath, c.name); err != nil {
		return err
	}
	// The kernel keeps parts of /proc/PID locked while that process is in
	// execve(2), which a FUSE file system of the container can make last for ever.
	pinned := make(chan error, 1)
	go func() { pinned <- c.pin() }()
	select {
	case err = <-pinned:
		if err != nil {
			c.Close()
		}
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(pinLimit):
		err = hint.Errorf("look for a FUSE file system in the container that does not answer, or stop the container",
			"/proc/%d of its init process does not answer within %s", c.pid, pinLimit)
	}
	go func() { <-pinned; c.Close() }()
	return err
}

// pin opens what stands for the init process.
//
// Its process id may have died and been given to another process since LXC told
// it. A pidfd and an open /proc/PID stay with one process. They show that this one
// is the init of a pid namespace, has a mount namespace of its own, and still lives
// after its root was opened.
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

// initPid asks the container's monitor. Without an answer it runs lxc-info, which
// tells a stopped container from an unknown one. lxc-info asks at the same socket and
// does not check who answers, so its process id counts only if a monitor listens.
func initPid(ctx context.Context, lxcPath, name string) (int, error) {
	pid, asked := askInitPid(lxcPath, name)
	switch {
	case asked == nil:
		return pid, nil
	case errors.Is(asked, errImpostor), errors.Is(asked, errUnseen):
		return 0, hint.Wrap(asked, "look for who has it: ss -xlp | grep "+name+"/command")
	}
	ctx, cancel := context.WithTimeout(ctx, infoLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "lxc-info", "-P", lxcPath, "-n", name, "-p", "-H")
	cmd.Env = hostEnv()
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	text := strings.TrimSpace(stdout.String())
	said := strings.TrimSpace(text + " " + stderr.String())
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("lxc-info: %w", ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return 0, hint.Errorf(installLXC, "lxc-info: %w", err)
	case err != nil && strings.Contains(said, "doesn't exist"):
		return 0, fmt.Errorf("%w %s below %s", ErrUnknown, name, lxcPath)
	case err != nil:
		return 0, fmt.Errorf("lxc-info: %w: %s", err, say.Clean(strings.Join(strings.FieldsFunc(said, func(r rune) bool { return r == '\n' || r == '\r' }), "; "), lineLimit))
	case text == "" || text == "-1":
		return 0, ErrNotRunning
	}
	if errors.Is(asked, errNobody) {
		return 0, asked
	}
	pid, err = strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("lxc-info: no process id: %q", text)
	}
	return pid, nil
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

// Close lets go of the root; it changes nothing in the container.
func (c *Container) Close() error {
	if c.quit != nil {
		c.quit()
	}
	c.closing.Lock()
	defer c.closing.Unlock()
	for _, fd := range []*int{&c.root, &c.proc, &c.pidfd} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	return nil
}

// Pid is the init process as the host sees it.
func (c *Container) Pid() int { return c.pid }

// Alive reports whether that init process still lives.
func (c *Container) Alive() bool { return c.alive() == nil }

// Privileged reports whether root in the container is root on the host.
func (c *Container) Privileged() bool { return c.uid == 0 }

// alive asks the pidfd, which turns readable when the process has ended.
func (c *Container) alive() error { return c.aliveAfter(0) }

// aliveAfter does so when the process has had some time to end.
func (c *Container) aliveAfter(wait time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(wait.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n > 0:
			return ErrNotRunning
		}
		return nil
	}
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

// readAt reads a file of the host's /proc below an open folder there.
func readAt(dir int, name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for len(buf) < limit {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):min(cap(buf), limit)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			break
		}
		buf = buf[:len(buf)+n]
	}
	return buf, nil
}

func readlinkAt(dir int, name string) (string, error) {
	var most [256]byte // nearly all targets are shorter, and a driver has dozens of links
	buf := most[:]
	n, err := unix.Readlinkat(dir, name, buf)
	if n == len(buf) {
		buf = make([]byte, unix.PathMax)
		n, err = unix.Readlinkat(dir, name, buf)
	}
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}
