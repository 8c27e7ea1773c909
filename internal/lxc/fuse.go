package lxc

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is much longer than a system call on a file takes, even on a slow disk.
var stuckAfter = 20 * time.Second

// A call that hangs for lostAfter times stuckAfter is given up.
const lostAfter = 3

// call is a running system call on the container's files.
type call struct {
	tid int // of its thread
	// read means that it reads a file on a FUSE file system. The kernel's stack does
	// not always show that.
	read bool
}

func (l *call) task() string { return "/proc/self/task/" + strconv.Itoa(l.tid) }

// served reports whether the call waits for a process of the container.
func (l *call) served() bool { return l.read || waits(l.task()) }

// calls are the running calls on one container.
type calls struct {
	mu  sync.Mutex
	all map[*call]bool
}

func (c *calls) begin(l *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*call]bool{}
	}
	c.all[l] = true
}

func (c *calls) end(l *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, l)
}

func (c *calls) served() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.all {
		if l.served() {
			return true
		}
	}
	return false
}

// guard watches the calls that follow on this thread, until done is called. When one
// hangs for too long, the container's FUSE file systems are ended.
func (c *Container) guard() (done func()) { return c.watch(false) }

// guardRead is guard for reading a file that lies on a FUSE file system.
func (c *Container) guardRead() (done func()) { return c.watch(true) }

// watch looks every stuckAfter whether the call hangs: it waits for a process of the
// container, or for a lock that such a process holds. A call that waits for a slow
// disk wakes up now and then, and must not cost the container its mounts.
func (c *Container) watch(read bool) (done func()) {
	runtime.LockOSThread()
	mine := &call{unix.Gettid(), read}
	c.calls.begin(mine)
	var over atomic.Bool
	wait := stuckAfter
	timer := time.AfterFunc(wait, func() { c.lookEvery(wait, mine, &over) })
	return func() {
		c.calls.end(mine)
		over.Store(true)
		timer.Stop()
		runtime.UnlockOSThread()
	}
}

// lookEvery looks at a call again and again until it is over.
func (c *Container) lookEvery(wait time.Duration, l *call, over *atomic.Bool) {
	times, was := 0, ""
	for ; !over.Load(); time.Sleep(wait) {
		served, now := l.served(), asleep(l.task())
		if !served && (now == "" || now != was) {
			times, was = 0, now
			continue
		}
		if times++; times >= lostAfter {
			c.giveUp()
		} else if served {
			go c.AbortFUSE() // which might hang as well
		}
	}
}

// OnLost sets a function that is called once when a call on the container's files has
// hung for 60 to 80 seconds, although its FUSE file systems were ended. The caller
// goes on without that call. Set it before the first call.
func (c *Container) OnLost(f func()) { c.lost = sync.OnceFunc(f) }

func (c *Container) giveUp() {
	if c.lost != nil {
		c.lost()
	}
}

// cancelled is called when the context of Open ends. A file system that does not
// answer gets one more second. Proxmox VE sends SIGKILL five seconds after SIGTERM.
func (c *Container) cancelled() {
	time.Sleep(time.Second)
	c.abortStuck()
}

// abortStuck ends the container's FUSE file systems if a call waits for one.
func (c *Container) abortStuck() {
	if c.calls.served() {
		c.AbortFUSE()
	}
}

// waits reports whether a thread waits for a FUSE server or a fanotify listener. A
// listener in a privileged container can hold up the opening of a file. The kernel's
// stack shows both by name. Without a stack the answer is yes.
func waits(task string) bool {
	stack, err := os.ReadFile(filepath.Join(task, "stack"))
	if err != nil {
		if _, gone := os.Stat(task); gone != nil {
			return false // that thread has ended
		}
	}
	return len(stack) == 0 || strings.Contains(string(stack), "fuse") || strings.Contains(string(stack), "fanotify")
}

// asleep tells how often a thread has been woken up, if it is in a sleep that no
// signal ends. Else it returns "".
func asleep(task string) string {
	text, err := os.ReadFile(filepath.Join(task, "status"))
	if err != nil || !strings.Contains(string(text), "\nState:\tD") {
		return ""
	}
	_, times, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
	return "woken up" + times
}

// fuseControl has a folder for each FUSE connection, named after the minor number of
// the mount's device. Root can end the connection there.
const fuseControl = "/sys/fs/fuse/connections"

// AbortFUSE ends the FUSE file systems that are mounted in the container and not
// on the host, and returns how many. Their server may read a request and never
// answer it. A system call that waits for the answer cannot be interrupted, not even
// by SIGKILL; only the end of the connection frees it. File systems of the host stay,
// such as lxcfs, which every container sees. This is the last resort, because what
// works in the container ends too. A file system that the list of mounts does not
// show, for instance behind an overlay, is not found.
func (c *Container) AbortFUSE() int {
	// A copy, because Close may run meanwhile, and the number of the descriptor could
	// then stand for another container.
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
	// Each is ended as soon as it is found: its number may be another container's later.
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
