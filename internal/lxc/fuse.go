package lxc

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is far more than a system call on files takes, on a slow and busy
// disk too.
var stuckAfter = 20 * time.Second

// lostAfter is after how many times stuckAfter a call that waits for a FUSE file
// system is given up.
const lostAfter = 3

// guard ends the container's FUSE file systems when what follows is stuck in
// one for too long. The caller calls done at its end.
func (c *Container) guard() (done func()) {
	return c.watch(&c.busy, func() bool { return waitsForFUSE("/proc/self/task") })
}

// guardRead does so for a read of a file that lies on such a file system, which
// then is what it waits for.
func (c *Container) guardRead() (done func()) {
	return c.watch(&c.reads, func() bool { return true })
}

// watch looks from time to time whether a call is stuck. One that waits for a
// slow disk is not: that must not cost the container its mounts.
func (c *Container) watch(busy *atomic.Int32, stuck func() bool) (done func()) {
	var over atomic.Bool
	times := 0
	var look func()
	look = func() {
		switch {
		case over.Load():
			return
		case !stuck():
			times = 0
		default:
			if times++; times < lostAfter {
				c.AbortFUSE()
			} else {
				c.giveUp()
			}
		}
		time.AfterFunc(stuckAfter, look)
	}
	timer := time.AfterFunc(stuckAfter, look)
	busy.Add(1)
	return func() {
		busy.Add(-1)
		over.Store(true)
		timer.Stop()
	}
}

// OnLost has f called once when a call on the container's files has hung for a
// minute and the end of its FUSE file systems has not freed it: the caller goes on
// without. It is to be set before there are such calls.
func (c *Container) OnLost(f func()) { c.lost = sync.OnceFunc(f) }

func (c *Container) giveUp() {
	if c.lost != nil {
		c.lost()
	}
}

// cancelled is called when the work on the container is to end: a file system
// that does not answer then has a second left. Proxmox sends SIGKILL five
// seconds after SIGTERM.
func (c *Container) cancelled() {
	time.Sleep(time.Second)
	switch {
	case c.reads.Load() > 0:
		c.AbortFUSE()
	case c.busy.Load() > 0:
		c.abortStuck()
	}
}

// abortStuck ends the container's FUSE file systems if a thread of this process
// waits for one.
func (c *Container) abortStuck() {
	if waitsForFUSE("/proc/self/task") {
		c.AbortFUSE()
	}
}

// waitsForFUSE looks at the kernel's stacks of threads, in whose functions FUSE
// has its name. Where the kernel shows no stacks, it may be so.
func waitsForFUSE(tasks string) bool {
	threads, err := filepath.Glob(filepath.Join(tasks, "*", "stack"))
	if err != nil {
		return true
	}
	shown := false
	for _, file := range threads {
		stack, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		shown = shown || len(stack) > 0
		if strings.Contains(string(stack), "fuse") {
			return true
		}
	}
	return !shown
}

// fuseControl is where the kernel lets root end the connections of FUSE file
// systems, one folder each, named after the minor number of the mount's device.
const fuseControl = "/sys/fs/fuse/connections"

// AbortFUSE ends the FUSE file systems that are mounted in the container and not
// on the host, and returns how many. A container may mount one whose server
// reads a request and never answers it: a system call of this process that runs
// into that cannot be interrupted, not even by SIGKILL. Only the end of the
// connection frees it. The host's own (lxcfs, which every container sees in its
// /proc, or a storage) are left alone. It is the last resort: what works in the
// container ends too. One that the list of mounts does not show, behind an overlay
// for instance, is not found.
func (c *Container) AbortFUSE() int {
	// Not the number that Close gives back: another container's folder might get
	// it meanwhile, and that container lose its mounts.
	c.closing.Lock()
	proc, err := unix.FcntlInt(uintptr(c.proc), unix.F_DUPFD_CLOEXEC, 0)
	c.closing.Unlock()
	if err != nil {
		return 0
	}
	defer unix.Close(proc)
	host := map[string]bool{}
	if hostMounts(func(m mount) bool { host[m.fuseMinor()] = true; return true }) != nil {
		return 0
	}
	aborted := 0
	// At once for each that is found: a number may soon be another container's.
	_ = readMounts(proc, "mountinfo", func(m mount) bool {
		minor := m.fuseMinor()
		if minor != "" && !host[minor] && os.WriteFile(filepath.Join(fuseControl, minor, "abort"), []byte("1"), 0o200) == nil {
			host[minor] = true // once is enough
			aborted++
		}
		return true
	})
	return aborted
}

// fuseMinor is the minor device number of a FUSE mount, "" of any other.
func (m mount) fuseMinor() string {
	if m.kind != "fuse" && !strings.HasPrefix(m.kind, "fuse.") {
		return "" // fuseblk needs a disk, which a container has none of
	}
	minor, ok := strings.CutPrefix(m.device, "0:")
	if !ok || strings.Trim(minor, "0123456789") != "" {
		return ""
	}
	return minor
}
