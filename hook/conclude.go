package hook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// conclude completes the trace, saves it, and says in one line how the run ended.
func (r *run) conclude(ctx context.Context, err error) {
	t := &r.trace
	t.Seconds = time.Since(r.began).Seconds()
	if ctx.Err() != nil && t.Ended == "" {
		t.Ended = EndedInterrupted
	}
	switch {
	case err != nil:
		t.Result, t.Reason, t.Hint = Failed, err.Error(), hint.Of(err)
		if refused(err) {
			t.Result = Refused
		}
	case len(t.Steps) > 0 && t.Phase == PhaseUninstall:
		t.Result = Removed
	case r.handed:
		t.Result = Background
	case len(t.Steps) > 0:
		t.Result = Installed
	default:
		t.Result = Skipped
	}
	t.cut(secrets(r.settings))
	if t.Left == nil && r.init == 0 && !t.Unknown && t.Settings.Paths.State != "" {
		// Nobody has looked at the container, so it has what the last run left.
		var last Trace
		if had, _ := r.runs().Last(t.VMID, &last); had {
			t.Left = last.Left
		}
	}
	if r.DryRun || t.Result == Refused && t.Phase == PhaseUninstall || t.Ended == EndedMissing || t.Ended == EndedNotRunning {
		return // nothing has happened that somebody may want to know later
	}
	r.remember(err)
	r.notify(ctx)
	if err == nil && !r.InUnit && !r.handed {
		unit{t.VMID}.forget(ctx)
	}
	if err == nil {
		r.sayEnd()
	}
}

// sayEnd says in one line how a run ended that did not fail. It warns when the GPU does
// not work in the container.
func (r *run) sayEnd() {
	t := &r.trace
	log := r.Log.With("result", string(t.Result)).With("version", string(t.Plan.Wanted))
	faults := t.Facts.Container.Devices
	if len(faults) == 0 || t.Phase != PhasePostStart || t.Plan.Wanted == "" || r.handed {
		log.Infof("%s (%s)", r.summary(), seconds(t.Seconds))
		return
	}
	text := r.summary()
	if t.Result == Installed && !t.Facts.Container.Share {
		text = fmt.Sprintf("driver %s is installed", t.Plan.Wanted)
	}
	log.Warnf("%s, but the GPU does not work in the container: %s (%s)", text, strings.Join(faults, "; "), seconds(t.Seconds))
	log.With("hint", true).Info(devicesHint(t.VMID))
}

// remember saves the trace, and a failure for the next start. The run does not fail
// when they cannot be saved.
func (r *run) remember(err error) {
	t := &r.trace
	if t.Settings.Paths.State == "" {
		return // the settings themselves were wrong: there is no place to keep it
	}
	if saved := r.runs().Save(t.VMID, t.At, t.Result == Skipped || t.Plan.Held, t); saved != nil {
		r.Log.Warnf("%v", saved)
	}
	r.measure()
	inputs := t.InputsAfter
	if inputs == "" {
		inputs = t.Facts.Inputs
	}
	switch {
	case t.Result == Failed && inputs != "" && t.Ended == "":
		f := record.Failure{At: time.Now(), Seconds: t.Seconds, Inputs: inputs, Reason: t.Reason, Hint: t.Hint}
		if saved := r.runs().Failed(t.VMID, f); saved != nil {
			r.Log.Warnf("%v", saved)
		}
	case err == nil && t.Facts.Failure != nil && !r.handed:
		r.runs().Succeeded(t.VMID)
	}
}

func (r *run) summary() string {
	t := &r.trace
	if r.handed {
		return r.background()
	}
	if t.Result == Removed {
		return "the driver is removed from the container"
	}
	if t.Result != Installed {
		return t.Plan.Why
	}
	text := fmt.Sprintf("driver %s is installed and its files are checked", t.Plan.Wanted)
	switch {
	case t.Facts.Container.Share:
		text = fmt.Sprintf("driver %s is shared with the container", t.Plan.Wanted)
	case t.Plan.Verify == "nvidia-smi":
		text = fmt.Sprintf("driver %s is installed and nvidia-smi works", t.Plan.Wanted)
	}
	for _, s := range t.Steps {
		switch s.Step {
		case StepPackages, StepToolkit, StepDocker, StepAfter, StepReboot:
			if s.Note != "" {
				text += ", " + s.Note
			}
		}
	}
	return text
}

// Bad reports whether the run has failed or was refused.
func (t Trace) Bad() bool { return t.Result == Failed || t.Result == Refused }

// Outdated reports whether the run was for another driver than the one that is wanted
// now. What it failed for need not hold any more.
func (t Trace) Outdated(wanted version.Driver) bool {
	return wanted != "" && t.Plan.Wanted != "" && t.Plan.Wanted != wanted
}

// Say says that a run has ended with err, and in what state it has left the container.
// A run that went well has said so itself.
func (t Trace) Say(log say.Log, err error) {
	switch {
	case err == nil:
	case errors.Is(err, worker.ErrLeftBehind) && !errors.Is(err, worker.ErrUnconcluded):
		log.Warnf("%v", err) // the work is done and told of
	default:
		log.With("result", string(t.Result)).With("version", string(t.Plan.Wanted)).With("step", string(t.failed())).Fail(err)
		if !t.At.IsZero() && t.Ended != EndedNotRunning { // it was begun
			log.Info(t.Truth())
		}
	}
}

// Truth says in what state a run that failed or was refused has left the container.
func (t Trace) Truth() string {
	has := ""
	switch {
	case t.Left != nil && t.Left.Driver != "" && t.Left.Driver == t.Plan.Wanted:
		has = fmt.Sprintf("driver %s is in place", t.Left.Driver)
	case t.Left != nil && t.Left.Driver != "":
		has = fmt.Sprintf("driver %s stays in the container", t.Left.Driver)
	case t.Left != nil:
		has = "the container has no working driver"
	}
	text, join := "not completed", ": "
	switch {
	case t.Unknown:
		text, join = "how far it got is unknown, the next start checks", "; "
	case len(t.Steps) == 0:
		text, join = "nothing was changed", "; "
	case t.Left != nil && t.Left.Driver == "" && t.Phase != PhaseUninstall:
		text = "not installed"
	}
	if has != "" {
		text += join + has
	}
	return fmt.Sprintf("%s (%s)", text, seconds(t.Seconds))
}

// failed is the step that failed, "" when none did.
func (t Trace) failed() Step {
	if n := len(t.Steps); n > 0 && t.Steps[n-1].Error != "" {
		return t.Steps[n-1].Step
	}
	return ""
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.3f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}
