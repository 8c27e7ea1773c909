package worker

import (
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// env is set for a worker. Its value does not matter.
const env = "PVE_NVIDIA_HOOK_WORKER"

// reportFd is where the worker leaves its report.
const reportFd = 3

// Is reports whether this process is the worker.
var Is = sync.OnceValue(func() bool {
	_, is := os.LookupEnv(env)
	if !is {
		return false
	}
	_ = os.Unsetenv(env) // the programs that it starts are no workers
	var st unix.Stat_t
	if unix.Fstat(reportFd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO ||
		!sameFile("/proc/"+strconv.Itoa(os.Getppid())+"/exe", "/proc/self/exe") {
		return false // somebody else has set it
	}
	unix.CloseOnExec(reportFd)
	return true
})

// The first thread of a worker does no work: it has the death signal, which the
// kernel takes from a thread that changes its identity, as those do that act for a
// container's root.
func init() {
	if Is() {
		runtime.LockOSThread()
	}
}

// Tell sets what a worker reports besides its exit status. It is written as JSON when
// the worker ends.
func Tell(work any) { told.Store(&work) }

var told atomic.Pointer[any]

// Exit ends this process. A worker first closes the files of its caller and leaves its
// report, in case it cannot end.
func Exit(code int) { exit(code, true) }

// Break is Exit of a worker that was stopped before its end.
func Break(code int) { exit(code, false) }

func exit(code int, done bool) {
	exiting.Lock() // never unlocked: only the first of two goroutines may report
	if Is() {
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			for fd := range reportFd {
				_ = unix.Dup3(int(null.Fd()), fd, 0)
			}
		}
		last := Report{Status: code, Done: done}
		if work := told.Load(); work != nil {
			last.Told = *work
		}
		_ = json.NewEncoder(os.NewFile(reportFd, "report")).Encode(last)
	}
	os.Exit(code)
}

var exiting sync.Mutex
