// Package worker does the work on containers in a process of its own.
//
// A container can serve files itself (FUSE), and a thread that waits for an answer
// of such a server cannot be ended, not even by SIGKILL, and so neither can its
// process. Proxmox VE's start of a container must not wait for such a process. So the
// process that was called only watches the one that works, and goes on without it when
// it cannot end. The kernel ends a process that was left behind with the container.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// A worker that has left its report may take endWait to end: its runtime closes files
// and gives memory back. After a signal it has only endSoon, because the caller is
// killed soon too. endLimit is for a worker that was told to end and leaves no report.
const (
	endWait  = 2 * time.Second
	endSoon  = 300 * time.Millisecond
	endLimit = 10 * time.Second
)

// lookEvery is the time between two looks for a worker that was killed and does not
// end. killedLimit is how long that may take: the kernel frees its memory first.
const (
	lookEvery   = 200 * time.Millisecond
	killedLimit = 3 * time.Second
)

var (
	// ErrLeftBehind means that the worker does not end.
	ErrLeftBehind = errors.New("does not end and is left behind: if it hangs in a file system of the container, it ends with that")
	// ErrUnconcluded means that the worker has left no report that counts.
	ErrUnconcluded = errors.New("the work is not concluded")
	// ErrNotBegun means that there is no worker. It is an ErrUnconcluded too.
	ErrNotBegun = errors.New("start the worker")
)

// unconcluded is an error of whose text ErrUnconcluded is no part.
type unconcluded struct{ error }

func (u unconcluded) Is(target error) bool { return target == ErrUnconcluded }

func (u unconcluded) Unwrap() error { return u.error }

// Unconcluded returns an ErrUnconcluded that says what.
func Unconcluded(what string) error { return unconcluded{errors.New(what)} }

// Job is what a worker is to do.
type Job struct {
	Args  []string  // of the command line; nil: those of this process
	Order any       // what it finds on stdin, as JSON; nil: nothing
	Told  any       // a pointer to what takes what it tells, see Tell
	Out   io.Writer // takes what it prints, whole lines; nil: stdout and stderr of this process do
}

// Report is what a worker says at its end.
type Report struct {
	Status int  // its exit status
	Told   any  `json:",omitempty"` // see Tell
	Done   bool // it was not stopped before its end
}

// maxReport is how many bytes are read of a report. A container has its part in what
// a worker says.
const maxReport = 4 << 20

// ReadReport reads a report, and what the worker tells into told, a pointer.
// What neither has a field for is an error.
func ReadReport(r io.Reader, told any) (Report, error) {
	said := Report{Told: told}
	d := json.NewDecoder(io.LimitReader(r, maxReport))
	d.DisallowUnknownFields()
	err := d.Decode(&said)
	return said, err
}

// Do runs this program again as a worker and returns its report. The error is
// ErrUnconcluded when there is none; any other error is a warning beside the report.
// When ctx ends the worker gets SIGTERM, and has endLimit to end. The kernel kills the
// worker when this process ends; only a thread that hangs in the kernel stays.
func Do(ctx context.Context, job Job) (Report, error) {
	// The death signal comes when the thread ends that has started the worker.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	notBegun := func(err error) (Report, error) { return Report{}, unconcluded{fmt.Errorf("%w: %w", ErrNotBegun, err)} }
	report, theirs, err := os.Pipe()
	if err != nil {
		return notBegun(err)
	}
	defer report.Close()
	stdin, order, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return notBegun(err)
	}
	var relays relays
	defer relays.close()
	stdout, stderr, err := relays.begin(job.Out)
	var p *process
	if err == nil {
		p, err = start(job.Args, stdin, stdout, stderr, theirs)
	}
	theirs.Close()
	stdin.Close()
	relays.started()
	if err != nil {
		order.Close()
		return notBegun(err)
	}
	go func() { // while it starts
		defer order.Close()
		if job.Order != nil {
			_ = json.NewEncoder(order).Encode(job.Order) // one that comes in part is none
		}
	}()
	defer context.AfterFunc(ctx, func() { p.signal(unix.SIGTERM) })()

	said := make(chan Report, 1)
	go func() {
		defer close(said)
		last, err := ReadReport(report, job.Told)
		if err != nil {
			report.Close() // else it would wait for somebody to read the rest
			return
		}
		said <- last
	}()
	return watch(ctx, p, said, &relays)
}

// watch waits until a worker has ended, or until it is clear that it does not end.
func watch(ctx context.Context, p *process, said <-chan Report, relays *relays) (Report, error) {
	pid, ended := p.pid, p.ended
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	over, late, report := ctx.Done(), (<-chan time.Time)(nil), said
	for killed := time.Duration(0); ; {
		select {
		case <-over:
			over, late = nil, time.After(endLimit)
		case <-late:
			p.signal(unix.SIGKILL)
			relays.rest()
			return Report{}, unconcluded{fmt.Errorf("process %d was killed, it did not end in %s", pid, endLimit)}
		case how := <-ended:
			relays.drain(ctx)
			select {
			case last, ok := <-said:
				if ok {
					return last.after(how, nil)
				}
			case <-time.After(endSoon): // a program that it has started holds the pipe open
			}
			return Report{}, unconcluded{silent(ctx, pid, how)}
		case last, ok := <-report:
			if !ok { // it is about to end
				report = nil
				continue
			}
			relays.drain(ctx)
			return last.end(ctx, p)
		case <-look.C:
			most := killedLimit
			if ctx.Err() != nil {
				most = endSoon
			}
			if !dead(pid) {
				killed = 0
			} else if killed += lookEvery; killed > most {
				relays.rest()
				return Report{}, unconcluded{fmt.Errorf("process %d was killed but %w", pid, ErrLeftBehind)}
			}
		}
	}
}

// end waits for the end of a worker that has left its report.
func (r Report) end(ctx context.Context, p *process) (Report, error) {
	wait := endWait
	if ctx.Err() != nil {
		wait = endSoon
	}
	select {
	case how := <-p.ended:
		return r.after(how, nil)
	case <-time.After(wait):
	}
	p.signal(unix.SIGKILL) // so that it does nothing more when it wakes up
	select {
	case how := <-p.ended: // it was only slow
		return r.after(how, nil)
	case <-time.After(endSoon / 3):
	}
	return r.after(0, fmt.Errorf("process %d %w", p.pid, ErrLeftBehind))
}

// after is the outcome of a worker that has left its report and then ended in some
// way, or was left behind. If its exit status is another than it has said,
// something is wrong with it: the race detector does that.
func (r Report) after(how syscall.WaitStatus, left error) (Report, error) {
	switch {
	case !r.Done && left != nil:
		return Report{}, unconcluded{left}
	case !r.Done:
		return Report{}, Unconcluded("the process that worked on the container was stopped before its end")
	case left != nil:
		return r, left
	case how.Exited() && how.ExitStatus() != r.Status:
		return Report{}, unconcluded{fmt.Errorf("the process that worked on the container ended unexpectedly: %s", ending(how))}
	}
	return r, nil
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	two, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(one, two)
}

// silent says why a worker has ended without a report.
func silent(ctx context.Context, pid int, how syscall.WaitStatus) error {
	switch {
	case how.Signaled() && how.Signal() == unix.SIGKILL:
		return hint.Errorf("the next run does what was left; the kernel's log says if memory ran out (journalctl -k)", "process %d, which worked on the container, was killed", pid)
	case ctx.Err() != nil: // most likely before it could listen
		return errors.New("interrupted, and the process that worked on the container has left no report")
	}
	return fmt.Errorf("process %d, which worked on the container, exited without a report: %s", pid, ending(how))
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
