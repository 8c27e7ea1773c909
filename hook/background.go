package hook

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// EnvBackground says that this process is the unit in which the work of a hook
// goes on.
const EnvBackground = "PVE_NVIDIA_HOOK_BACKGROUND"

// unitTries is how often a unit begins again for a container that was restarted.
const unitTries = 3

// namingUnit makes journalctl -u find the lines of log. The journal asks the kernel for
// the unit of a process when it reads a line, which may be too late for the last
// lines. So each line names the unit, and the journal believes root
// (add_matches_for_unit of systemd's logs-show).
func namingUnit(log say.Log, vmid int) say.Log {
	return log.With("object_systemd_unit", unit{vmid}.service())
}

// mayUseUnit reports whether a unit may do the work.
func (r *run) mayUseUnit() bool {
	return r.AtStart && !r.InUnit && r.settings.Install.Background != "never" && haveSystemd()
}

// unitWorks reports whether the unit of an earlier start is still at work. Its lock is
// not waited for, since that would hold up the start of the container.
func (r *run) unitWorks(ctx context.Context) bool {
	u := unit{r.trace.VMID}
	if !r.mayUseUnit() || !u.known() {
		return false
	}
	held, err := r.lock(ctx, 0)
	if err == nil {
		_ = held.Release() // the unit is about to begin or to end: the plan shows whether there is work
		return false
	}
	return u.works(ctx)
}

// driverAndToolkit splits the steps of a plan at the first that needs the container's
// network. The driver is recorded before that one is tried.
func driverAndToolkit(steps []Step) (driver, toolkit []Step) {
	if at := slices.IndexFunc(steps, func(s Step) bool { return s == StepPackages || s == StepToolkit || s == StepDocker }); at >= 0 {
		return steps[:at], steps[at:]
	}
	return steps, nil
}

// split parts the steps of the plan into those that are done now and those that
// the unit does.
func (r *run) split(ctx context.Context) (here, later []Step) {
	steps := r.trace.Plan.Steps
	if !r.mayUseUnit() {
		if r.AtStart && !r.InUnit && r.settings.Install.Background == "always" {
			r.Log.Infof("systemd does not run here, so the work is done in the foreground")
		}
		return steps, nil
	}
	how := r.settings.Install.Background
	if how == "auto" {
		if r.queue = queued(ctx, r.Host.Root, r.trace.VMID); r.queue != "" {
			how = "always"
		}
	}
	if how == "always" {
		return nil, steps
	}
	return driverAndToolkit(steps) // the toolkit means minutes of downloads, the driver takes seconds
}

// handOver starts the unit, in which this program decides again and does what
// is left to do.
func (r *run) handOver(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of this program: %w", err)
	}
	file := envFile(r.settings.Paths.Run, r.trace.VMID)
	if err := writeEnv(file, os.Environ()); err != nil {
		return err
	}
	u := unit{r.trace.VMID}
	started, err := u.start(ctx, file, program, strconv.Itoa(r.trace.VMID), string(r.trace.Phase))
	if err != nil && ctx.Err() != nil {
		// The caller stops the hook, and so the unit too.
		u.stop(context.WithoutCancel(ctx))
	}
	if err != nil {
		return err
	}
	if !started {
		r.Log.Infof("unit %s is already running", u.name())
	}
	r.handed = true
	return nil
}

// background is what a run says that leaves work to the unit.
func (r *run) background() string {
	follow := fmt.Sprintf("journalctl -fu %s", unit{r.trace.VMID}.name())
	if len(r.trace.Steps) > 0 {
		return "driver " + string(r.trace.Plan.Wanted) + " is installed, " + r.follows() + " follows in the background; see " + follow
	}
	why := r.trace.Plan.Why
	if r.queue != "" {
		why += ", " + r.queue
	}
	return why + ", so the work goes on in the background; see " + follow
}

// follows is what is still to come when the driver is installed.
func (r *run) follows() string {
	if slices.Contains(r.trace.Plan.Steps, StepToolkit) {
		return ToolkitName(r.settings)
	}
	if slices.Contains(r.trace.Plan.Steps, StepDocker) {
		return "NVIDIA's Container Toolkit"
	}
	return "what its libraries need of the distribution"
}

// queued says what would have to wait for a hook that takes long, "" when nothing
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
