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

// stuckAfter is far more than a system call on files takes, on a slow and busy
// disk too.
var stuckAfter = 20 * time.Second

// lostAfter is after how many times stuckAfter a call that waits for a FUSE file
// system is given up.
const lostAfter = 3

// call is one on the container's files that is under way.
type call struct {
	tid int // of its thread
	// read is one of a file on a FUSE file system: what it waits for is clear. The
	// kernel's stack does not always show it.
	read bool
}

func (l *call) task() string { return "/proc/self/task/" + strconv.Itoa(l.tid) }

// served reports whether it waits for a process of the container.
func (l *call) served() bool { return l.read || waits(l.task()) }

// calls are those under way on one container.
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

// guard ends the container's FUSE file systems when what follows on this thread is
// stuck in one for too long. The caller calls done at its end.
func (c *Container) guard() (done func()) { return c.watch(false) }

// guardRead does so for a read of a file that lies on such a file system.
func (c *Container) guardRead() (done func()) { return c.watch(true) }

// watch looks from time to time whether a call is stuck: for a process of the
// container, or for a lock that one holds. One that waits for a slow disk is woken
// up now and then, and must not cost the container its mounts.
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

// lookEvery looks at a call that has taken long, until it is over.
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

// OnLost has f called once when a call on the container's files has hung for some 60
// to 80 seconds and the end of its FUSE file systems has not freed it: the caller
// goes on without. It is to be set before there are such calls.
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
	c.abortStuck()
}

// abortStuck ends the container's FUSE file systems if a call waits for one.
func (c *Container) abortStuck() {
	if c.calls.served() {
		c.AbortFUSE()
	}
}

// waits looks at the kernel's stack of a thread, in whose functions FUSE has its
// name, and so has fanotify, whose listeners in a privileged container can hold up
// the opening of a file. Where the kernel shows no stack, it may be so.
func waits(task string) bool {
	stack, err := os.ReadFile(filepath.Join(task, "stack"))
	if err != nil {
		if _, gone := os.Stat(task); gone != nil {
			return false // that thread has ended
		}
	}
	return len(stack) == 0 || strings.Contains(string(stack), "fuse") || strings.Contains(string(stack), "fanotify")
}

// asleep says how often a thread has been woken up, if it sleeps where no signal
// reaches it, else "".
func asleep(task string) string {
	text, err := os.ReadFile(filepath.Join(task, "status"))
	if err != nil || !strings.Contains(string(text), "\nState:\tD") {
		return ""
	}
	_, times, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
	return "woken up" + times
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
