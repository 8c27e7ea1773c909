package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// EnvBackground says that this process is the unit in which the work of a hook
// goes on.
const EnvBackground = "PVE_NVIDIA_HOOK_BACKGROUND"

// errGone means that the container's init process ended while it was worked on.
var errGone = errors.New("the container stopped meanwhile")

// detaches settles whether work may be handed to a unit.
func (r *run) detaches() bool {
	return r.Detach && r.settings.Install.Background != "never" && haveSystemd()
}

// goesOn reports whether the unit of an earlier start is still at work. Its lock
// is waited for by nobody: the start of a container is not held up by it.
func (r *run) goesOn(ctx context.Context) bool {
	u := unit{r.trace.VMID}
	if !r.detaches() || !u.known() {
		return false
	}
	held, err := r.lockWithin(ctx, 0)
	if err == nil {
		_ = held.Release() // it is about to begin or to end: the decision shows whether there is work
		return false
	}
	return u.works(ctx)
}

// split parts the steps of a plan into those that the hook does itself and
// those that its unit does, as install.background says.
func split(steps []Step, background string) (here, unit []Step) {
	switch background {
	case "always":
		return nil, steps
	case "auto":
		// Minutes of downloads; the driver takes seconds.
		if at := slices.Index(steps, StepToolkit); at >= 0 {
			return steps[:at], steps[at:]
		}
	}
	return steps, nil
}

// carryOut does the plan, or its first part, and hands the rest to a unit.
func (r *run) carryOut(ctx context.Context) error {
	how := r.settings.Install.Background
	if how == "auto" && r.detaches() {
		if r.queue = queued(ctx, r.Host.Root, r.trace.VMID); r.queue != "" {
			how = "always"
		}
	}
	here, rest := split(r.trace.Plan.Steps, how)
	if len(rest) > 0 && !r.detaches() {
		if r.Detach {
			r.Log.Infof("no systemd runs here, so the work is done in the foreground")
		}
		here, rest = r.trace.Plan.Steps, nil
	}
	if len(here) > 0 {
		if err := r.whileItRuns(ctx, here); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	err := r.handOver(ctx)
	if err != nil && len(here) == 0 && ctx.Err() == nil {
		r.Log.Warnf("%v; the work is done now instead", err)
		return r.whileItRuns(ctx, rest)
	}
	then := "pve-nvidia-hook apply " + strconv.Itoa(r.trace.VMID) + " does the rest, and background = \"never\" does without systemd"
	if len(here) > 0 {
		then = "the driver is in place; " + then
	}
	return hint.Wrap(err, then)
}

// handOver starts the unit, in which this program decides again and does what
// is left to do.
func (r *run) handOver(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program for the background: %w", err)
	}
	file := envFile(r.settings.Paths.Run, r.trace.VMID)
	if err := writeEnv(file, os.Environ()); err != nil {
		return err
	}
	u := unit{r.trace.VMID}
	started, err := u.start(ctx, file, program, strconv.Itoa(r.trace.VMID), string(r.trace.Phase))
	if err != nil && ctx.Err() != nil {
		// Whoever stops the hook means all of its work.
		u.stop(context.WithoutCancel(ctx))
	}
	if err != nil {
		return err
	}
	if !started {
		r.Log.Infof("unit %s is at work already", u.name())
	}
	r.handed = true
	return nil
}

// background is what a run says that leaves work to the unit.
func (r *run) background() string {
	follow := fmt.Sprintf("journalctl -fu %s", unit{r.trace.VMID}.name())
	if len(r.trace.Steps) > 0 {
		return "driver " + string(r.trace.Plan.Wanted) + " is installed, the CUDA toolkit follows in the background; see " + follow
	}
	why := r.trace.Plan.Why
	if r.queue != "" {
		why += ", " + r.queue
	}
	return why + ", so the work goes on in the background; see " + follow
}

// queued says who would have to wait for a hook that takes long, "" when nobody
// has to: Proxmox VE starts the guests of a booting node one after another (PVE
// 8) or few at once, and its HA manager has four workers for all its services.
// The container itself runs by now and gains nothing by our waiting.
func queued(ctx context.Context, root string, vmid int) string {
	switch {
	case pve.UnderHA(root, vmid):
		return "the HA manager's other services must not wait for it"
	case stateNow(ctx, "pve-guests.service") == "activating": // a oneshot unit, as long as it runs
		return "the node's other guests must not wait for it"
	}
	return ""
}

// whileItRuns does steps until the container's init is gone: nothing else would
// end a download for a container that has stopped.
func (r *run) whileItRuns(ctx context.Context, steps []Step) error {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(500 * time.Millisecond):
			}
			if !r.container.Alive() {
				cancel(errGone)
				return
			}
		}
	}()
	err := r.doThese(ctx, steps)
	gone := err != nil && (errors.Is(context.Cause(ctx), errGone) ||
		ctx.Err() == nil && (errors.Is(err, lxc.ErrNotRunning) || !r.container.Alive()))
	cancel(nil)
	<-ended // it looks at the container, which is closed after this
	if gone {
		r.Log.Debugf("%v", err)
		return hint.Wrap(errGone, "the next start does it again")
	}
	return err
}

// unitTries is how often a unit begins with a container that is started anew.
const unitTries = 3

// postStart runs a post-start; in a unit again when the container was started
// anew meanwhile, which nobody else would notice: the hook of that start has
// found the unit at work. It is the unit's worker that finds out.
func postStart(ctx context.Context, e Event, o Options) (Trace, error) {
	for tries := 1; ; tries++ {
		t, err := PostStart(ctx, e, o)
		if !o.Unit || !errors.Is(err, errGone) || tries == unitTries {
			return t, err
		}
		s, forErr := o.Config.For(e.VMID)
		if forErr != nil {
			return t, err
		}
		c, openErr := open(ctx, lxc.Open, s.Paths.LXC, e.VMID)
		if openErr != nil {
			return t, err
		}
		c.Close()
		o.Log.Infof("the container was started again")
	}
}
