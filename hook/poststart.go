package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
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
	DryRun   bool    // say what would be done, change nothing
	Force    bool    // install again, whatever is there and whatever failed before
	Asked    bool    // a person wants it for this container: try it, whatever failed before
	Terminal bool    // a person watches: show progress bars
	Detach   bool    // a unit may go on with the work, as the settings say
	Unit     bool    // this is that unit

	// Aside, when it is there, is what all is left to that may hang in the
	// container: this run only looks, and keeps the container's lock until Aside
	// has returned the trace of a worker. That one needs no lock of its own; so the
	// lock ends with who looks, also when the worker hangs and cannot end.
	Aside func(context.Context) (Trace, error)
}

// run is one run on one container.
type run struct {
	Options
	settings  config.Settings
	trace     Trace
	container *lxc.Container
	installed *record.Installed // the container's record as it was found
	began     time.Time
	held      *lock.Lock
	inputs    string        // what a failure of this run depends on
	handed    bool          // a unit goes on with the work
	queue     string        // who would else have to wait for it
	lost      chan struct{} // closed when the container's files hold a call for ever
}

// PostStart brings the user space of a running container into line with the
// host. The trace is complete also when there is an error. That is what is yet to
// be said (Trace.Say): a run that was left to another process has done it itself.
func PostStart(ctx context.Context, e Event, o Options) (Trace, error) {
	r := &run{Options: o, began: time.Now(), lost: make(chan struct{})}
	r.trace = Trace{Program: version.Program, At: r.began, VMID: e.VMID, Phase: e.Phase}
	return r.within(ctx, r.story)
}

// within tells a story under a deadline. What it locks and opens is given back
// after the run is concluded: who waits for the lock finds its outcome.
func (r *run) within(ctx context.Context, story func(context.Context) error) (Trace, error) {
	limit := r.limit(r.trace.VMID)
	if r.Aside != nil {
		limit = r.lookLimit(r.trace.VMID)
	}
	err := bounded(ctx, limit, r.lost, func(ctx context.Context) error {
		err := plainly(ctx, story(ctx))
		if errors.Is(err, errAside) {
			return err
		}
		defer r.close()
		r.conclude(err)
		return err
	})
	switch {
	case errors.Is(err, errStuck):
		return r.abandoned(err), err
	case errors.Is(err, errAside):
		defer r.close()
		if r.container != nil {
			r.container.Close()
		}
		return r.goAside(ctx)
	}
	return r.trace, err
}

func (r *run) close() {
	if r.container != nil {
		r.container.Close()
	}
	_ = r.held.Release() // the kernel gives it back in any case
}

// limit is how long a run may take in all, from the deadlines of its parts.
func (r *run) limit(vmid int) time.Duration {
	s, err := r.Config.For(vmid)
	if err != nil {
		return time.Minute
	}
	return 2*s.Cache.LockTimeout + 4*s.Install.Timeout + 5*time.Minute
}

// lookLimit is how long a look may take, with the wait for the lock.
func (r *run) lookLimit(vmid int) time.Duration {
	s, err := r.Config.For(vmid)
	if err != nil {
		return time.Minute
	}
	return s.Cache.LockTimeout + time.Minute
}

func (r *run) story(ctx context.Context) error {
	settings, err := r.Config.For(r.trace.VMID)
	if err != nil {
		return err
	}
	r.settings, r.trace.Settings = settings, settings.Redacted()
	if !settings.Wanted {
		if !r.DryRun {
			r.runs().Succeeded(r.trace.VMID) // what failed before is nobody's business any more
		}
		r.trace.Plan = unwanted(settings)
		return nil
	}
	if r.Unit {
		_ = os.Remove(envFile(settings.Paths.Run, r.trace.VMID)) // it has been read
	}
	if !worker.Is() {
		if r.handed = r.goesOn(ctx); r.handed {
			r.trace.Plan.Why = "an earlier start has begun with it"
			return nil
		}
		if r.held, err = r.lock(ctx); err != nil {
			return err
		}
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	r.trace.Plan = Decide(r.settings, r.trace.Facts)
	if r.Aside != nil && (r.container.Beyond() || r.trace.Plan.Needed()) {
		return errAside
	}
	defer r.leave()
	if r.trace.Plan.Deeper {
		r.trace.Facts.Deep = lookDeep(r.container, r.trace.Facts.Host.Arch)
		r.trace.Plan = Decide(r.settings, r.trace.Facts)
	}
	switch plan := r.trace.Plan; {
	case plan.Refused:
		if !r.DryRun {
			if err := r.tidy(ctx); err != nil {
				r.Log.Warnf("%v", err)
			}
		}
		return &refusal{hint.Wrap(errors.New(plan.Why), plan.Hint)}
	case len(plan.Steps) == 0 || r.DryRun:
		return nil
	}
	return r.carryOut(ctx)
}

// unwanted is the plan for a container in which nobody wants a driver.
func unwanted(s config.Settings) Plan { return Plan{Why: "no driver is wanted: " + s.WhyNot} }

// leave notes what the run leaves in the container: for those who ask when it is
// stopped, and for the next start, to which a failure of this run counts as long
// as it finds the container as it was left.
func (r *run) leave() {
	f := r.trace.Facts
	if len(r.trace.Steps) > 0 {
		f.Container, r.installed = lookContainer(r.container, r.settings)
		f.Container.Toolkit = r.toolkitMissing(r.trace.Plan.Wanted)
		r.inputs = r.digest(f)
	}
	if f.Container.RecordError == "" {
		has := hasOf(r.installed)
		r.trace.Left = &has
	}
}

// refusal marks an error before which nothing was tried.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// lock keeps two runs on one container apart. Proxmox's own lock does not:
// backups and migrations call hooks without it.
func (r *run) lock(ctx context.Context) (*lock.Lock, error) {
	return r.lockWithin(ctx, r.settings.Cache.LockTimeout)
}

func (r *run) lockWithin(ctx context.Context, limit time.Duration) (*lock.Lock, error) {
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

// look gathers the cheap facts: no process is started in the container, no
// network is touched.
func (r *run) look(ctx context.Context) error {
	f := Facts{Now: time.Now(), Force: r.Force, Asked: r.Asked}
	var err error
	if f.Host, err = lookHost(r.Host); err != nil {
		return err
	}
	find := lxc.Open
	if r.Aside != nil {
		find = lxc.OpenLocal
	}
	if r.container, err = open(ctx, find, r.settings.Paths.LXC, r.trace.VMID); err != nil {
		return err
	}
	r.container.OnLost(func() { close(r.lost) })
	f.Container, r.installed = lookContainer(r.container, r.settings)
	r.trace.Facts = f
	wanted, _ := wantedVersion(r.settings, f.Host)
	f.Container.Toolkit = r.toolkitMissing(wanted)
	f.Failure = r.runs().Failure(r.trace.VMID)
	f.Inputs = r.digest(f)
	r.trace.Facts = f
	return nil
}

func (r *run) runs() record.Runs { return record.Runs{State: r.settings.Paths.State} }
