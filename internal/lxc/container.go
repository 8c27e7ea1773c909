package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// pinLimit is for looks at the init process, which take some 0.1 ms.
const pinLimit = 5 * time.Second

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
	if c.pid, err = initPid(c.lxcPath, c.name); err != nil {
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
