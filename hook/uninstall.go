package hook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// PhaseUninstall stands in the trace of an uninstallation. Proxmox has no such phase.
const PhaseUninstall Phase = "uninstall"

// StepToolkitRemove takes the CUDA toolkit out of the container.
const StepToolkitRemove Step = "remove-toolkit"

// Uninstall takes out of a running container what this program has put there:
// toolkit, driver, record. Whether a configuration wants the driver does not
// matter. The trace is complete also when there is an error.
func Uninstall(ctx context.Context, vmid int, o Options) (Trace, error) {
	r := &run{Options: o, began: time.Now(), lost: make(chan struct{})}
	r.trace = Trace{Program: version.Program, At: r.began, VMID: vmid, Phase: PhaseUninstall}
	return r.within(ctx, r.goodbye)
}

func (r *run) goodbye(ctx context.Context) error {
	settings, err := r.Config.For(r.trace.VMID)
	if err != nil {
		return err
	}
	r.settings, r.trace.Settings = settings, settings.Redacted()
	if !worker.Is() {
		if r.held, err = r.lock(ctx); err != nil {
			return err
		}
	}
	if r.Aside != nil {
		return errAside
	}
	f := Facts{Now: time.Now(), Force: r.Force}
	if f.Host, err = lookHost(r.Host); err != nil {
		return err
	}
	r.container, err = lxc.Open(ctx, settings.Paths.LXC, r.trace.VMID)
	if errors.Is(err, lxc.ErrNotRunning) {
		return &refusal{hint.Wrap(err, "start it first: the driver's own uninstaller runs in the container")}
	}
	if err != nil {
		return err
	}
	r.container.OnLost(func() { close(r.lost) })
	defer r.leave()
	f.Container, r.installed = lookContainer(r.container, settings)
	f.Deep = lookDeep(r.container, f.Host.Arch)
	f.Failure = r.runs().Failure(r.trace.VMID)
	r.trace.Facts = f
	r.trace.Plan = r.farewell()
	switch plan := r.trace.Plan; {
	case plan.Refused:
		return &refusal{hint.Wrap(errors.New(plan.Why), plan.Hint)}
	case len(plan.Steps) == 0 || r.DryRun:
		return nil
	}
	err = r.do(ctx)
	if ctx.Err() != nil || !r.container.Alive() {
		return hint.Wrap(err, fmt.Sprintf("run it again: pve-nvidia-hook uninstall %d", r.trace.VMID))
	}
	return err
}

// farewell decides what is to be taken out.
func (r *run) farewell() Plan {
	f := r.trace.Facts
	had, err := recordedToolkit(r.installed)
	if err != nil {
		return Plan{Refused: true, Why: err.Error(), Hint: "remove the packages cuda-* and " + record.Path + " in the container yourself"}
	}
	ours := f.Deep.Found.Log != "" || f.Container.Recorded != ""
	switch {
	case !ours && had.Empty() && f.Deep.Found.Any():
		p := blocked("", f.Deep.Blockers)
		p.Why = strings.Join(strings.Fields(fmt.Sprintf("driver %s in the container was not installed by a run file", f.Deep.Found.Version())), " ")
		if p.Hint == "" {
			p.Hint = "remove it in the way it was installed, or its files by hand"
		}
		return p
	case ours && len(f.Deep.Blockers) > 0 && !f.Force:
		// Its files cannot be told from those of the packages.
		return blocked("", f.Deep.Blockers)
	}
	var p Plan
	var what []string
	if ours {
		what = append(what, strings.TrimSpace("driver "+string(f.driver())))
	}
	if !had.Empty() {
		p.Steps = append(p.Steps, StepToolkitRemove)
		what = append(what, had.Name())
	}
	if ours {
		p.Steps = append(p.Steps, StepUninstall)
	}
	if len(p.Steps) == 0 && r.installed == nil && f.Container.RecordError == "" {
		p.Why = "no driver is in the container"
		return p
	}
	p.Steps = append(p.Steps, StepVerify, StepRecord)
	if len(what) == 0 {
		what = []string{"an old record"}
	}
	p.Why = strings.Join(what, " and ") + " is to be removed"
	if len(what) > 1 {
		p.Why = strings.Join(what, " and ") + " are to be removed"
	}
	return p
}

// driver is the version that is in the container, as well as it can be told.
func (f Facts) driver() version.Driver {
	if f.Container.Recorded != "" {
		return f.Container.Recorded
	}
	return f.Deep.Found.Log
}

// leaveStep does one step of an uninstallation.
func (w *work) leaveStep(ctx context.Context, step Step) (string, error) {
	arch := w.trace.Facts.Host.Arch
	switch step {
	case StepToolkitRemove:
		return w.removeToolkit(ctx)
	case StepUninstall:
		// From here on nothing is claimed. The toolkit, if any, is gone by now.
		if err := record.Remove(w.container); err != nil {
			return "", err
		}
		if err := driver.Uninstall(ctx, w.container, arch, w.installed, "", w.settings.Install.Timeout, w.Log); err != nil {
			return "", err
		}
		return strings.TrimSpace("removed driver " + string(w.trace.Facts.driver())), nil
	case StepVerify:
		return "", w.gone(arch)
	case StepRecord:
		// The folder goes with its last file; one that holds others stays.
		err := record.Remove(w.container)
		_ = w.container.Remove(record.Folder)
		return "", err
	}
	return "", fmt.Errorf("unknown step %q", step)
}

func (w *work) removeToolkit(ctx context.Context) (string, error) {
	had, err := recordedToolkit(w.installed)
	if err != nil {
		return "", err
	}
	want := w.cudaWant("")
	want.Save = w.saveToolkit
	if _, err := cuda.Remove(ctx, w.container, had, want, w.Log); err != nil {
		return "", fmt.Errorf("the driver was not touched yet, the CUDA toolkit cannot be removed: %w", err)
	}
	return "removed " + had.Name(), nil
}

// gone makes sure that nothing of a driver is left.
func (w *work) gone(arch string) error {
	if found := driver.Look(w.container, arch); found.Any() {
		return hint.Errorf("see /var/log/nvidia-uninstall.log in the container, then try again",
			"driver %s is still in the container after its removal", found.Version())
	}
	if left := driver.Left(w.container, arch); len(left) > 0 {
		return hint.Errorf("see what holds them in the container, remove them, then try again",
			"the removal has left %s of a driver in the container, the first is %s", say.Count(len(left), "file"), left[0])
	}
	return nil
}
