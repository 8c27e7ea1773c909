package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// Options are what a run is given besides its event.
type Options struct {
	Config   *config.Config // of this node
	Host     host.Host
	Log      say.Log // for this container
	Level    string  // of the log, for the worker
	Format   string  // of the log: text | json
	Terminal bool    // a person watches: show how far a download is
	InUnit   bool    // this is the systemd unit in which the work of a start goes on
	Request
}

// Request is what the caller asks for. The worker gets it too, and it is kept among
// the facts of the trace.
type Request struct {
	DryRun  bool `json:"dry_run,omitempty"`  // say what would be done, change nothing
	Force   bool `json:"force,omitempty"`    // install again even if the driver is in place and whatever failed before
	Asked   bool `json:"asked,omitempty"`    // a person wants it for this container: try it, whatever failed before
	AtStart bool `json:"at_start,omitempty"` // the container has just been started
	Restart bool `json:"restart,omitempty"`  // restart what does not use the driver, though the container was not just started
	Replace bool `json:"replace,omitempty"`  // remove the distribution's packages of the driver where they are in the way
	NoWait  bool `json:"no_wait,omitempty"`  // refuse at once when the container does not run
}

// run supervises one run on one container: it decides who does the work, and keeps the
// outcome. It does not touch the container, which can make a reader of its files wait
// for ever. That is the worker's part.
type run struct {
	Options
	settings config.Settings
	trace    Trace
	began    time.Time
	handed   bool   // a unit goes on with the work
	queue    string // what would have to wait if the work were done here
	init     int    // the container's init process, as the worker found it
}

// PostStart brings the user space of a running container into line with the
// host. The trace is complete also when there is an error; Trace.Say says both.
func PostStart(ctx context.Context, e Event, o Options) (Trace, error) {
	return newRun(e, o).supervise(ctx)
}

// Uninstall takes out of a running container what this program has put there:
// toolkit, driver, record. Whether a configuration wants the driver does not
// matter. The trace is complete also when there is an error.
func Uninstall(ctx context.Context, vmid int, o Options) (Trace, error) {
	return newRun(Event{vmid, PhaseUninstall}, o).supervise(ctx)
}

func newRun(e Event, o Options) *run {
	r := &run{Options: o, began: time.Now()}
	r.trace = Trace{Program: version.Program, At: r.began, VMID: e.VMID, Phase: e.Phase}
	return r
}

// supervise does one run and concludes it before it gives the container's lock back:
// the next run finds the outcome of this one.
func (r *run) supervise(ctx context.Context) (Trace, error) {
	held, err := r.lockAndRun(ctx)
	err = asInterrupted(ctx, err)
	r.conclude(ctx, err)
	_ = held.Release() // the kernel gives it back in any case
	return r.trace, err
}

// lockAndRun reads the settings, takes the container's lock and does the run. Two runs on
// one container never overlap. Proxmox VE's own lock does not prevent that: backups and
// migrations call hooks without it.
func (r *run) lockAndRun(ctx context.Context) (held *lock.Lock, err error) {
	if r.settings, err = r.Config.For(r.trace.VMID); err != nil {
		return nil, &refusal{err}
	}
	r.trace.Settings = r.settings.Redacted()
	if !r.settings.Wanted && r.trace.Phase == PhasePostStart { // nothing is touched
		if !r.DryRun {
			r.runs().Succeeded(r.trace.VMID) // an earlier failure matters no more
		}
		r.trace.Plan = unwanted(r.settings)
		return nil, nil
	}
	if r.InUnit {
		_ = os.Remove(envFile(r.settings.Paths.Run, r.trace.VMID)) // it has been read
	}
	if r.handed = r.unitWorks(ctx); r.handed {
		r.trace.Plan.Why = "an earlier start has begun with it"
		return nil, nil
	}
	if held, err = r.lock(ctx, r.settings.Cache.LockTimeout); err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ {
		err := r.runOnce(ctx)
		// The container of a unit may have been started again meanwhile. The hook of
		// that start has found the unit at work, and has left the work to it.
		if !r.InUnit || r.trace.Ended != EndedStopped || tries == unitTries || ctx.Err() != nil {
			return held, err
		}
		ended := r.trace
		r.trace = newRun(Event{ended.VMID, ended.Phase}, r.Options).trace
		r.trace.Settings = ended.Settings
		if r.inWorker(ctx, order{Part: partLook}) != nil { // it does not run
			r.trace = ended
			return held, err
		}
		r.Log.Infof("the container was started again")
	}
}

// runOnce has a worker look, then has done what the plan says: here, or by the unit.
func (r *run) runOnce(ctx context.Context) error {
	// These are known also when the worker leaves no report.
	r.trace.Facts.Host, _ = lookHost(r.Host)
	r.trace.Plan.Wanted, _ = wantedVersion(r.settings, r.trace.Facts.Host)
	if r.NoWait && !r.DryRun && r.trace.Phase == PhasePostStart && Shares(r.Host, r.settings) {
		// No pre-start of Proxmox VE has come before this run. A container that runs
		// keeps what it has. Then its restart may be all that is needed.
		if err := PrepareShare(ctx, r.settings, r.Options, false); err != nil {
			r.Log.Fail(err)
		}
	}
	if err := r.inWorker(ctx, order{Part: partLook}); err != nil || r.DryRun || len(r.trace.Plan.Steps) == 0 {
		return err
	}
	here, later := r.split(ctx)
	if len(here) == 0 {
		err := r.handOver(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.Log.Warnf("%v; the work is done now instead", err)
		here, later = later, nil
	}
	r.Log.Infof("%s", r.trace.Plan.Why)
	driver, toolkit := driverAndToolkit(here)
	if len(driver) > 0 {
		if err := r.driverPart(ctx, driver); err != nil {
			return err
		}
	}
	if len(toolkit) > 0 {
		return r.inWorker(ctx, order{Part: partToolkit})
	}
	if len(later) > 0 {
		then := fmt.Sprintf("the driver is in place; pve-nvidia-hook apply %d does the rest, and background = \"never\" works without systemd", r.trace.VMID)
		return hint.Wrap(r.handOver(ctx), then)
	}
	return nil
}

// driverPart fetches the run file, then has the worker do the steps that need it, when
// it is this container's turn.
func (r *run) driverPart(ctx context.Context, steps []Step) error {
	do := order{Part: partDriver}
	if steps[0] == StepFetch {
		began := time.Now()
		entry, err := r.fetch(ctx)
		o := Outcome{Step: StepFetch, Seconds: time.Since(began).Seconds()}
		if err != nil {
			o.Error = err.Error()
		}
		r.trace.Steps = append(r.trace.Steps, o)
		if err != nil {
			return err
		}
		defer entry.Release()
		do.Tree, do.Report = entry.Tree, entry.Report
	}
	turn, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer turn.Release()
	return r.inWorker(ctx, do)
}

// inWorker has a worker do a part of the run and adds its trace. The error is
// the worker's, or says that it left no report.
func (r *run) inWorker(ctx context.Context, o order) error {
	limit := 4*r.settings.Install.Timeout + 5*time.Minute
	if o.Part == partLook || o.Part == partShare {
		limit = lookLimit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o.Phase, o.Settings, o.HostRoot = r.trace.Phase, r.settings, r.Host.Root
	o.Level, o.Format, o.InUnit, o.Request = r.Level, r.Format, r.InUnit, r.Request
	told, err := runWorker(limited, o)
	if told != nil {
		r.addReport(*told)
	}
	switch {
	case errors.Is(err, worker.ErrUnconcluded):
		if o.Part != partLook && !errors.Is(err, worker.ErrNotBegun) {
			r.trace.Unknown, r.trace.Left = true, nil // what the look has found may be gone
		}
		return err
	case err != nil: // it is left behind; the work is done and told of
		r.Log.Warnf("%v", err)
	}
	if told.Failure == nil {
		return nil
	}
	failure := told.Failure
	if limited.Err() != nil && ctx.Err() == nil {
		failure.Text = fmt.Sprintf("not done in %s: %s", limit, failure.Text)
	}
	return hint.Wrap(failure, failure.Advice)
}

// addReport adds a worker's report to the trace. Facts and plan are those of the first look.
func (r *run) addReport(told report) {
	t := told.Trace
	if r.trace.Facts.Now.IsZero() {
		r.trace.Facts, r.trace.Plan = t.Facts, t.Plan
	}
	r.trace.Steps = append(r.trace.Steps, t.Steps...)
	r.trace.InputsAfter, r.trace.Left, r.trace.Ended, r.trace.Unknown = t.InputsAfter, t.Left, t.Ended, t.Unknown
	r.init = told.Init
}

// lookLimit is for a look, with the wait for an init process that is just starting, and
// for the layout of a shared driver: some hundred links.
const lookLimit = 2 * time.Minute

func (r *run) lock(ctx context.Context, limit time.Duration) (*lock.Lock, error) {
	dir := r.settings.Paths.Run
	if err := trust.MakeDir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("run folder (paths.run): %w", err)
	}
	return lock.Take(ctx, lockFile(r.settings, r.trace.VMID), lock.Options{
		Timeout: limit,
		Holder:  fmt.Sprintf("container %d", r.trace.VMID),
		OnWait: func(holder string, waited time.Duration) {
			r.Log.Infof("waiting for another run on this container, held by %s", holder)
		},
	})
}

// lockFile is the lock of all runs on a container.
func lockFile(s config.Settings, vmid int) string {
	return filepath.Join(s.Paths.Run, strconv.Itoa(vmid)+".lock")
}

func (r *run) runs() record.Runs { return record.Runs{State: r.settings.Paths.State} }

// unwanted is the plan for a container that is to have no driver.
func unwanted(s config.Settings) Plan { return Plan{Why: "no driver is wanted: " + s.WhyNot} }
