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
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	endMost = 10 * time.Second
)

// lookEvery is how often it is looked whether a worker was killed and cannot end.
// One with much memory takes its time, which killedMost allows.
const (
	lookEvery  = 200 * time.Millisecond
	killedMost = 3 * time.Second
)

var (
	// ErrLeftBehind means that the worker does not end.
	ErrLeftBehind = errors.New("does not end and is left behind: if it hangs in a file system of the container, it ends with that")
	// ErrUnconcluded means that it could not conclude its work.
	ErrUnconcluded = errors.New("the work is not concluded")
)

// unconcluded is an error of whose text ErrUnconcluded is no part.
type unconcluded struct{ error }

func (u unconcluded) Is(target error) bool { return target == ErrUnconcluded }

func (u unconcluded) Unwrap() error { return u.error }

// Job is what a worker is to do.
type Job struct {
	Args []string  // of the command line; nil: those of this process
	Out  io.Writer // takes what it prints, whole lines; nil: stdout and stderr of this process do
}

// Run is Do with the arguments and the output of this process.
func Run(ctx context.Context) (int, error) {
	code, _, err := Do(ctx, Job{})
	return code, err
}

// Do runs this program again as a worker, and returns its exit status and what else
// it has told of its work. When ctx ends the worker is told to end too, by SIGTERM,
// and has endMost for it. It does not outlive this process, but for a thread that
// the kernel holds.
func Do(ctx context.Context, job Job) (int, []byte, error) {
	// The death signal comes when the thread ends that has started the worker.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	report, theirs, err := os.Pipe()
	if err != nil {
		return 1, nil, unconcluded{fmt.Errorf("start the worker: %w", err)}
	}
	defer report.Close()
	var relays relays
	defer relays.close()
	worker := command(job.Args)
	worker.Stdout, worker.Stderr, err = relays.begin(job.Out)
	worker.ExtraFiles = []*os.File{theirs}
	if err == nil {
		err = worker.Start()
	}
	theirs.Close()
	relays.started()
	if err != nil {
		return 1, nil, unconcluded{fmt.Errorf("start the worker: %w", err)}
	}
	defer context.AfterFunc(ctx, func() { _ = worker.Process.Signal(unix.SIGTERM) })()

	ended := make(chan error, 1)
	go func() { ended <- worker.Wait() }()
	said := make(chan message, 1)
	go func() {
		defer close(said)
		if m, err := readMessage(report); err == nil {
			said <- m
		}
	}()
	return watch(ctx, worker, ended, said, &relays)
}

// watch waits for the end of a worker, or for that it cannot end.
func watch(ctx context.Context, worker *exec.Cmd, ended <-chan error, said <-chan message, relays *relays) (int, []byte, error) {
	pid := worker.Process.Pid
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	over, late := ctx.Done(), (<-chan time.Time)(nil)
	for killed := time.Duration(0); ; {
		select {
		case <-over:
			over, late = nil, time.After(endMost)
		case <-late:
			_ = worker.Process.Kill()
			relays.rest()
			return 1, nil, unconcluded{fmt.Errorf("process %d was killed, it did not end in %s", pid, endMost)}
		case err := <-ended:
			relays.drain()
			var m message
			if said != nil {
				select {
				case m = <-said: // it has said nothing when that is closed
				case <-time.After(endSoon): // what it has started holds the pipe
				}
			}
			if m.said {
				return m.status(err), m.text, nil
			}
			return 1, nil, unconcluded{silent(ctx, pid, err)}
		case m, ok := <-said:
			if !ok { // it is about to end
				said = nil
				continue
			}
			relays.drain()
			return m.end(ctx, worker, ended)
		case <-look.C:
			most := killedMost
			if ctx.Err() != nil {
				most = endSoon
			}
			if !dead(pid) {
				killed = 0
			} else if killed += lookEvery; killed > most {
				relays.rest()
				return 1, nil, unconcluded{fmt.Errorf("process %d was killed but %w", pid, ErrLeftBehind)}
			}
		}
	}
}

// end waits for the end of a worker that has said its last words.
func (m message) end(ctx context.Context, worker *exec.Cmd, ended <-chan error) (int, []byte, error) {
	pid, wait := worker.Process.Pid, endWait
	if ctx.Err() != nil {
		wait = endSoon
	}
	select {
	case err := <-ended:
		return m.status(err), m.text, nil
	case <-time.After(wait):
	}
	_ = worker.Process.Kill() // whatever wakes it up, it does nothing more
	select {
	case <-ended: // it was only slow
		return m.code, m.text, nil
	case <-time.After(endSoon / 3):
	}
	return m.code, m.text, fmt.Errorf("process %d %w", pid, ErrLeftBehind)
}

// message is what a worker says at its end: its exit status in one byte, the length
// of a text in four, and the text.
type message struct {
	said bool
	code int
	text []byte
}

// status is the exit status of a worker that has said its own: after that only the
// race detector changes it.
func (m message) status(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode()
	}
	return m.code
}

// textMost is as much as is read of a trace. What a worker says has been in a
// container's hands.
const textMost = 4 << 20

func readMessage(r io.Reader) (message, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	m := message{said: true, code: int(head[0])}
	if n := binary.LittleEndian.Uint32(head[1:]); n <= textMost {
		m.text = make([]byte, n)
		if _, err := io.ReadFull(r, m.text); err != nil {
			return message{}, err
		}
	}
	return m, nil
}

func (m message) bytes() []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{byte(m.code)}, uint32(len(m.text))), m.text...)
}

func command(args []string) *exec.Cmd {
	if args == nil {
		args = os.Args[1:]
	}
	// What the caller has handed down besides is not for one that may stay.
	_ = unix.CloseRange(reportFd, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	const self = "/proc/self/exe" // also where an upgrade has just replaced the file
	program := self
	if path, err := os.Executable(); err == nil && sameFile(path, self) {
		program = path // the process is named after it
	}
	worker := exec.Command(program, args...)
	worker.Args[0] = os.Args[0]
	worker.Env = append(os.Environ(), env+"=1")
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return worker
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	two, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(one, two)
}

// silent says why a worker has ended without a word.
func silent(ctx context.Context, pid int, err error) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil: // before it could listen
		return fmt.Errorf("interrupted, process %d ended: %w", pid, ctx.Err())
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL:
		return hint.Errorf("the next run does what was left; the kernel's log says if memory ran out (journalctl -k)", "process %d, which worked on the container, was killed", pid)
	case err == nil:
		return fmt.Errorf("process %d, which worked on the container, ended without a word", pid)
	}
	return fmt.Errorf("process %d, which worked on the container, ended without a word: %w", pid, err)
}

// dead reports whether a process has been killed and only threads that cannot end
// are left of it.
func dead(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false // waited for by now
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "State":
			if strings.HasPrefix(value, "Z") {
				return true
			}
		case "SigPnd": // of its first thread, which may be the one that hangs
			pending, _ := strconv.ParseUint(value, 16, 64)
			return pending&(1<<(unix.SIGKILL-1)) != 0
		}
	}
	return false
}

// Is reports whether this process is the worker.
var Is = sync.OnceValue(func() bool {
	_, is := os.LookupEnv(env)
	if !is {
		return false
	}
	_ = os.Unsetenv(env) // what it starts is none
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

// Tell sets what a worker says of its work besides its exit status.
func Tell(text []byte) { told = text }

var told []byte

// Exit ends this process. A worker tells its exit status first, in case it cannot
// end, and lets go of what the caller has handed down.
func Exit(code int) {
	if Is() {
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			for fd := range reportFd {
				_ = unix.Dup3(int(null.Fd()), fd, 0)
			}
		}
		_, _ = os.NewFile(reportFd, "report").Write(message{code: code, text: told}.bytes())
	}
	os.Exit(code)
}
