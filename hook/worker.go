package hook

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// WorkerCommand is the argument by which this program does an order as a worker.
const WorkerCommand = "work"

// Parts of a run. Each look decides anew, so a part does what is still to be done.
const (
	partLook    = "look"    // look and decide, change nothing but a missing pin
	partDriver  = "driver"  // the steps up to the driver's record; all steps of an uninstallation
	partToolkit = "toolkit" // the steps that begin with the first toolkit
	partShare   = "share"   // lay the shared driver out and mount it on the node
)

// order is what a worker is to do, as JSON on its stdin.
type order struct {
	Part     string
	Phase    Phase
	Settings config.Settings
	HostRoot string
	InUnit   bool
	Level    string
	Format   string
	Request

	// For partDriver and partShare: what was fetched. The supervisor holds its lock.
	Tree   string
	Report runfile.Report `json:",omitzero"`
}

// report is what a worker hands back at its end.
type report struct {
	Trace   Trace    // its part of it
	Init    int      // the container's init process, 0 when it was not found
	Failure *failure `json:",omitempty"`
}

// runWorker makes a worker do an order. The error is an ErrUnconcluded when there is no
// report that can be trusted. Any other error is a warning beside the report.
func runWorker(ctx context.Context, o order) (*report, error) {
	var told *report
	said, err := worker.Do(ctx, worker.Job{Args: []string{WorkerCommand}, Order: o, Told: &told})
	switch {
	case errors.Is(err, worker.ErrUnconcluded):
		return nil, err
	case !told.fits(said.Status):
		return nil, worker.Unconcluded("the worker process exited without a report")
	}
	return told, err
}

// fits reports whether a worker has told something, and has ended with the status
// that follows from it.
func (r *report) fits(status int) bool { return r != nil && (status != 0) == (r.Failure != nil) }

// Work is the worker's main function: it reads an order, does it and reports. It
// returns the exit status.
func Work(ctx context.Context) int {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return 2
	}
	log, err := say.New(os.Stderr, o.Format, o.Level)
	if err != nil {
		return 2
	}
	if !o.DryRun {
		log.ToJournal()
	}
	log = log.For(o.Settings.VMID)
	if o.InUnit {
		log = namingUnit(log, o.Settings.VMID)
	}
	told := o.carryOut(ctx, log)
	worker.Tell(told)
	if told.Failure != nil {
		return 1
	}
	return 0
}

// errStuck means that a system call on the container's files does not return.
var errStuck = errors.New("a system call on the container's files does not return")

// soon is how long the work may take to end after a signal. After that this process
// leaves its report and ends in any case.
const soon = 1700 * time.Millisecond

// carryOut does the order. When a call hangs in the container it is left behind.
func (o order) carryOut(ctx context.Context, log say.Log) report {
	newTrace := func() Trace {
		return Trace{Program: version.Program, At: time.Now(), VMID: o.Settings.VMID, Phase: o.Phase}
	}
	w := &work{order: o, host: host.Host{Root: o.HostRoot}, log: log, trace: newTrace(), lost: make(chan struct{})}
	done := make(chan report, 1)
	go func() { done <- w.report(ctx) }()
	select {
	case told := <-done:
		return told
	case <-w.lost:
	case <-ctx.Done():
		select {
		case told := <-done:
			return told
		case <-w.lost:
		case <-time.After(soon):
		}
	}
	// Everything of w still belongs to the goroutine that hangs.
	stuck := newTrace()
	stuck.Unknown = o.Part != partLook
	err := hint.Wrap(errStuck, "look for a hanging FUSE mount in the container, or stop it")
	if o.Part == partShare {
		err = hint.Errorf("stop the privileged containers that share the driver, then start this one again",
			"a system call on the cache's files does not return")
	}
	return report{Trace: stuck, Failure: failureOf(err)}
}

// report reconciles and says how that ended.
func (w *work) report(ctx context.Context) report {
	do := w.reconcile
	if w.Part == partShare {
		do = w.mountShare
	}
	err := asInterrupted(ctx, do(ctx))
	w.trace.Ended = w.endedBy(ctx, err)
	r := report{Trace: w.trace, Failure: failureOf(err)}
	if w.container != nil {
		r.Init = w.container.Pid()
		w.container.Close()
	}
	return r
}
