package lxc

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is far more than a system call on files takes, on a slow and busy
// disk too.
var stuckAfter = 20 * time.Second

// guard ends the container's FUSE file systems when what follows is stuck in
// one for too long. The caller calls done at its end.
func (c *Container) guard() (done func()) { return c.watch(&c.busy, c.abortStuck) }

// guardRead does so for a read of a file that lies on such a file system, which
// then is what it waits for.
func (c *Container) guardRead() (done func()) {
	return c.watch(&c.reads, func() bool { return c.AbortFUSE() > 0 })
}

func (c *Container) watch(busy *atomic.Int32, end func() bool) (done func()) {
	var over atomic.Bool
	var look func()
	look = func() {
		if !over.Load() && !end() {
			time.AfterFunc(stuckAfter, look) // a slow disk, for instance
		}
	}
	timer := time.AfterFunc(stuckAfter, look)
	busy.Add(1)
	return func() {
		busy.Add(-1)
		over.Store(true)
		timer.Stop()
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
// waits for one, and reports whether it did. One that waits for a slow disk must
// not cost the container its mounts.
func (c *Container) abortStuck() bool {
	return waitsForFUSE("/proc/self/task") && c.AbortFUSE() > 0
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
// into that cannot be interrupted, not even by SIGKILL, and so holds up whoever
// waits for this process. Only the end of the connection frees it. The host's
// own (lxcfs, which every container sees in its /proc, or a storage) are left
// alone. It is the last resort: what works in the container ends too.
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
	theirs, err := readAt(proc, "mountinfo", 16<<20)
	if err != nil {
		return 0
	}
	ours, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	host := fuseMinors(string(ours))
	aborted := 0
	for minor := range fuseMinors(string(theirs)) {
		if host[minor] {
			continue
		}
		if os.WriteFile(filepath.Join(fuseControl, minor, "abort"), []byte("1"), 0o200) == nil {
			aborted++
		}
	}
	return aborted
}

// fuseMinors are the minor device numbers of the FUSE mounts in a mountinfo:
// "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS ... - TYPE SOURCE OPTIONS".
func fuseMinors(mountinfo string) map[string]bool {
	minors := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		front, back, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			continue
		}
		if kind[0] != "fuse" && !strings.HasPrefix(kind[0], "fuse.") {
			continue // fuseblk needs a disk, which a container has none of
		}
		if minor, ok := strings.CutPrefix(fields[2], "0:"); ok && minor != "" && strings.Trim(minor, "0123456789") == "" {
			minors[minor] = true
		}
	}
	return minors
}
