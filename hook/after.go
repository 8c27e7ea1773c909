package hook

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/after"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/docker"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// after makes the programs in the container use the driver that was just installed.
// The driver is verified and recorded by now, so an error here is only logged.
func (w *work) after(ctx context.Context) (note string) {
	v, s := w.trace.Plan.Wanted, w.Settings
	warn := func(err error) {
		if err != nil && ctx.Err() == nil {
			w.log.Fail(err)
		}
	}
	// CDI specifications first: what is restarted below may read them.
	made, err := docker.Refresh(ctx, w.container, v)
	warn(err)
	if len(made) > 0 {
		w.log.Infof("CDI specification made for driver %s: %s", v, strings.Join(made, ", "))
	}
	c := w.trace.Facts.Container
	if slices.Contains(w.trace.Plan.Steps, StepInstall) || slices.Contains(w.trace.Plan.Steps, StepShare) || c.newlyShares(v) {
		warn(after.Commands(ctx, w.container, s.After.Run, s.Install.Timeout))
	}
	began := c.beganShared() && len(made) == 0 // all that runs was started with this driver
	if slices.Contains(w.trace.Plan.Steps, StepReboot) || began && !w.Restart {
		return ""
	}
	cgroup, err := w.container.Cgroup()
	if err != nil {
		warn(fmt.Errorf("which programs use driver %s is not known: %w", v, err))
		return ""
	}
	done := after.Restart(ctx, w.container, after.Job{
		VMID: s.VMID, Cgroup: cgroup, Installed: v, Units: s.After.Restart.Units, Log: w.log,
		Restart: w.Restart || w.AtStart && !s.After.Restart.Never,
	})
	if len(done.Restarted) == 0 {
		return ""
	}
	return "restarted " + strings.Join(done.Restarted, ", ")
}

// reboot reboots the container from inside, once for each driver.
func (w *work) reboot(ctx context.Context) (string, error) {
	w.next.Rebooted, w.next.RebootDue = w.trace.Plan.Wanted, false
	if err := record.Write(w.container, w.next); err != nil {
		return "", err
	}
	if err := after.Reboot(ctx, w.container); err != nil {
		w.log.Fail(err)
		return "", nil
	}
	w.rebooted = true
	return "the container reboots", nil
}

// Use says what uses a driver in a running container that has version v. It starts
// no process there and opens no file of it.
func Use(ctx context.Context, c *lxc.Container, v version.Driver) inuse.Use {
	cgroup, err := c.Cgroup()
	if err != nil {
		return inuse.Use{Partial: err.Error()}
	}
	use, err := inuse.Look(ctx, cgroup, v)
	if err != nil {
		return inuse.Use{Partial: err.Error()}
	}
	return use
}

// StillUse names programs of a container that use another driver than it has.
func StillUse(old []inuse.Holder) string {
	const most = 3
	var names []string
	for _, h := range old[:min(most, len(old))] {
		names = append(names, h.String())
	}
	text := strings.Join(names, ", ")
	if more := len(old) - most; more > 0 {
		text += " and " + say.Count(more, "other")
	}
	return text
}
