// Package worker does the work on containers in a process of its own.
//
// A container can serve files itself (FUSE), and a thread that waits for an answer
// of such a server cannot be ended, not even by SIGKILL, and so neither can its
// process. Whoever waits for this program, Proxmox VE's start of a container above
// all, must not wait for that one. So the process that was called only watches over
// the one that works, and goes on without it when it cannot end: what is left
// behind then is a process that the kernel ends with the container.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// env tells a process that it is the worker. Its value is of no account.
const env = "PVE_NVIDIA_HOOK_WORKER"

// reportFd is where the worker says what its exit status is going to be.
const reportFd = 3

// endWait is how long a worker may take to end after it has said so: its runtime
// has files to close and memory to give back. Once it was told to end, who waits
// for us has little patience left.
const (
	endWait = 2 * time.Second
	endSoon = 300 * time.Millisecond
)

// lookEvery is how often it is looked whether a worker was killed and cannot end.
const lookEvery = time.Second

// ErrLeftBehind means that the worker does not end: the exit status is what it has
// said, or 1.
var ErrLeftBehind = errors.New("hangs in a file system of the container and is left behind, it ends with the container")

// Run runs this program again with the same arguments, as the worker, and returns
// its exit status. When ctx ends the worker is told to end too, by SIGTERM; how long
// it is waited for after that is up to the caller. It does not outlive this process.
func Run(ctx context.Context) (int, error) {
	// The death signal comes when the thread ends that has started the worker.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	report, theirs, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("start the worker: %w", err)
	}
	defer report.Close()
	var relays relays
	defer relays.close()
	// What the caller has handed down besides is not for one that may stay.
	_ = unix.CloseRange(reportFd, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	worker := exec.Command("/proc/self/exe", os.Args[1:]...) // also where an upgrade has just replaced the file
	worker.Args[0] = os.Args[0]
	worker.Env = append(os.Environ(), env+"=1")
	worker.Stdin = os.Stdin
	worker.Stdout, worker.Stderr, err = relays.begin(os.Stdout, os.Stderr)
	worker.ExtraFiles = []*os.File{theirs}
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err == nil {
		err = worker.Start()
	}
	theirs.Close()
	relays.started()
	if err != nil {
		return 1, fmt.Errorf("start the worker: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = worker.Process.Signal(unix.SIGTERM) })()

	ended := make(chan error, 1)
	go func() { ended <- worker.Wait() }()
	said := make(chan int, 1)
	go func() {
		var b [1]byte
		if n, _ := report.Read(b[:]); n == 1 {
			said <- int(b[0])
		}
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for killed := 0; ; {
		select {
		case err := <-ended:
			relays.drain()
			return status(err)
		case code := <-said:
			relays.drain()
			wait := endWait
			if ctx.Err() != nil {
				wait = endSoon
			}
			select {
			case <-ended:
				return code, nil
			case <-time.After(wait):
			}
			_ = worker.Process.Kill() // whatever wakes it up, it does nothing more
			return code, fmt.Errorf("process %d %w", worker.Process.Pid, ErrLeftBehind)
		case <-look.C:
			if !dead(worker.Process.Pid) {
				killed = 0
			} else if killed++; killed > 1 {
				return 1, fmt.Errorf("process %d was killed but %w", worker.Process.Pid, ErrLeftBehind)
			}
		}
	}
}

// status is the exit status that the end of a worker means which has not told it.
func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	}
	return 1, hint.Errorf("the next run does what was left; the kernel's log says if memory ran out (journalctl -k)", "the process that works on the container ended: %w", err)
}

// dead reports whether a process has ended but for threads that cannot.
func dead(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false // waited for by now
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name is our own
	return strings.HasPrefix(rest, "Z")
}

// relays pass on what the worker prints. Who reads from a pipe waits until nobody
// has it open any more, so a worker that may be left behind must not have it.
type relays struct {
	ours   []*os.File // the ends of the worker, for as long as it has not been started
	read   []*os.File
	copies sync.WaitGroup
}

// begin returns what stands for stdout and stderr in the worker.
func (r *relays) begin(stdout, stderr *os.File) (io.Writer, io.Writer, error) {
	out, err := r.relay(stdout)
	if err != nil {
		return nil, nil, err
	}
	if same(stdout, stderr) {
		return out, out, nil // else their lines would overtake each other
	}
	errOut, err := r.relay(stderr)
	return out, errOut, err
}

func (r *relays) relay(to *os.File) (*os.File, error) {
	info, err := to.Stat()
	if err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		return to, nil // a terminal, a file, the journal; or nothing at all
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.ours, r.read = append(r.ours, write), append(r.read, read)
	r.copies.Go(func() {
		_, _ = io.Copy(to, read)
		read.Close() // when nobody listens any more, the worker is told so
	})
	return write, nil
}

func same(a, b *os.File) bool {
	one, err := a.Stat()
	two, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(one, two)
}

// started gives up the worker's ends.
func (r *relays) started() {
	for _, f := range r.ours {
		f.Close()
	}
	r.ours = nil
}

// drain waits until all is passed on: the worker has no end open any more, but
// what it has started may.
func (r *relays) drain() {
	done := make(chan struct{})
	go func() { r.copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(endWait):
	}
}

func (r *relays) close() {
	for _, f := range append(r.ours, r.read...) {
		f.Close()
	}
}

// Is reports whether this process is the worker.
var Is = sync.OnceValue(func() bool {
	_, is := os.LookupEnv(env)
	if !is {
		return false
	}
	_ = os.Unsetenv(env) // what it starts is none
	var st unix.Stat_t
	if unix.Fstat(reportFd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return false // somebody else has set it
	}
	unix.CloseOnExec(reportFd)
	return true
})

// Exit ends this process. A worker tells its exit status first, in case it cannot
// end, and lets go of what others may wait for.
func Exit(code int) {
	if Is() {
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			_ = unix.Dup3(int(null.Fd()), 1, 0)
			_ = unix.Dup3(int(null.Fd()), 2, 0)
		}
		_, _ = unix.Write(reportFd, []byte{byte(code)})
	}
	os.Exit(code)
}
