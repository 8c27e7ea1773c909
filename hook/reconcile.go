package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// work is the worker's side of a run: what it was ordered, what it has found, and
// what its steps hand to each other.
type work struct {
	order
	host      host.Host
	log       say.Log
	trace     Trace
	container *lxc.Container
	installed *record.Installed // the container's record as it was found
	conf      *pve.Conf         // Proxmox VE's file of the container, see guestConf
	lost      chan struct{}     // closed when a call on the container's files hangs for ever

	next      record.Installed // the record to be written
	delivered string           // how the installer came into the container
	rebooted  bool             // the container was told to reboot
}

// reconcile is the story of a run: look, decide, do. The last step of each plan
// records in the container what is true then.
func (w *work) reconcile(ctx context.Context) error {
	if err := w.look(ctx); err != nil {
		return err
	}
	defer w.noteLeft()
	w.decide(ctx)
	if w.trace.Plan.Refused {
		return w.refuse(ctx)
	}
	if len(w.trace.Plan.Steps) > 0 && w.trace.Facts.Inputs == "" {
		w.trace.Facts.Inputs = w.digest(w.trace.Facts) // in case it fails
	}
	steps := w.orderedSteps(w.trace.Plan.Steps)
	if len(steps) == 0 {
		w.pinLate()
		return nil
	}
	if fetched := w.job().Version(); w.trace.Plan.Steps[0] == StepFetch && w.Part == partDriver && fetched != w.trace.Plan.Wanted {
		// The host's driver was exchanged while the run file came.
		return hint.Errorf(fmt.Sprintf("pve-nvidia-hook apply %d", w.Settings.VMID),
			"driver %s is wanted by now, and what was fetched is %s", w.trace.Plan.Wanted, cmp.Or(fetched, "none"))
	}
	if err := w.tidy(ctx); err != nil {
		return err
	}
	return w.do(ctx, steps)
}

// decide makes the plan. The facts that take time are gathered only when there is
// something to do.
func (w *work) decide(ctx context.Context) {
	decide := Decide
	if w.Phase == PhaseUninstall {
		decide = DecideUninstall
	}
	w.trace.Plan = decide(w.Settings, w.trace.Facts)
	if w.trace.Plan.Deeper {
		w.trace.Facts.Deep = w.lookDeep(ctx)
		w.trace.Plan = decide(w.Settings, w.trace.Facts)
	}
}

// orderedSteps returns those steps of a plan that this worker has the order to do.
func (w *work) orderedSteps(steps []Step) []Step {
	driver, toolkit := driverAndToolkit(steps)
	switch {
	case w.Part == partLook:
		return nil
	case w.Part == partToolkit:
		return toolkit
	case len(driver) > 0 && driver[0] == StepFetch: // whoever gave the order has fetched
		return driver[1:]
	}
	return driver
}

// refuse ends a refused run. It still removes what an earlier run has left.
func (w *work) refuse(ctx context.Context) error {
	if !w.DryRun {
		if err := w.tidy(ctx); err != nil {
			w.log.Warnf("%v", err)
		}
	}
	return &refusal{hint.Wrap(errors.New(w.trace.Plan.Why), w.trace.Plan.Hint)}
}

// do does steps in their order until the container's init process is gone. It
// stops at the first step that fails.
func (w *work) do(ctx context.Context, steps []Step) error {
	if w.installed != nil {
		w.next = *w.installed
	}
	return whileAlive(ctx, w.container.Alive, func(ctx context.Context) error { return w.doSteps(ctx, steps) })
}

func (w *work) doSteps(ctx context.Context, steps []Step) error {
	for _, step := range steps {
		began := time.Now()
		note, err := w.step(ctx, step)
		o := Outcome{Step: step, Note: note, Seconds: time.Since(began).Seconds()}
		if err != nil {
			o.Error = err.Error()
		}
		w.trace.Steps = append(w.trace.Steps, o)
		if err != nil {
			return w.explain(ctx, err)
		}
		if note != "" {
			w.log.With("step", string(step)).Infof("%s (%s)", note, seconds(o.Seconds))
		}
	}
	return nil
}

// explain marks the error of a step as an interruption when the caller has ended the
// run.
func (w *work) explain(ctx context.Context, err error) error {
	switch {
	case !w.container.Alive(), ctx.Err() == nil:
		return err
	case w.Phase == PhaseUninstall:
		return hint.Wrap(interrupted{err}, fmt.Sprintf("run it again: pve-nvidia-hook uninstall %d", w.Settings.VMID))
	}
	return hint.Wrap(interrupted{err}, fmt.Sprintf("the next start, or pve-nvidia-hook apply %d, does it again", w.Settings.VMID))
}

// endedBy says why a run ended early, as Trace.Ended has it.
func (w *work) endedBy(ctx context.Context, err error) string {
	switch {
	case errors.Is(err, lxc.ErrUnknown):
		return EndedMissing
	case w.container == nil && errors.As(err, new(*refusal)):
		return EndedNotRunning
	case errors.Is(err, errGone):
		return EndedStopped
	case ctx.Err() != nil:
		return EndedInterrupted
	}
	return ""
}

// tidy ends the processes and removes the files that a killed run has left in the
// container.
func (w *work) tidy(ctx context.Context) error {
	killed, err := w.container.KillStrays(ctx)
	if err != nil {
		return fmt.Errorf("end what an earlier run left in the container: %w", err)
	}
	if killed > 0 {
		w.log.Infof("ended %s that an earlier run had left in the container", say.Count(killed, "process"))
	}
	return driver.Clear(ctx, w.container)
}

// noteLeft notes what the run leaves in the container: for status while it is stopped,
// and for the next start, which holds back a failed step only as long as it finds the
// container as this run has left it.
func (w *work) noteLeft() {
	f := w.trace.Facts
	if w.rebooted { // there is nothing to look at any more
		has := hasOf(&w.next, w.next.Version)
		w.trace.Left = &has
		return
	}
	if len(w.trace.Steps) > 0 {
		f.Container, w.installed = w.lookContainer()
		f.Container.Toolkit = w.toolkitMissing(w.trace.Plan.Wanted)
		f.Container.Docker = w.dockerMissing(w.trace.Plan.Wanted)
		w.trace.InputsAfter = w.digest(f)
	}
	if f.Container.RecordError == "" {
		has := hasOf(w.installed, f.Container.Mounted)
		w.trace.Left = &has
	}
}
