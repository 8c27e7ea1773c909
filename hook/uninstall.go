package hook

import (
	"context"
	"fmt"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// PhaseUninstall stands in the trace of an uninstallation. Proxmox has no such phase.
const PhaseUninstall Phase = "uninstall"

// DecideUninstall says what is to be taken out of a container. It reads nothing
// but its arguments.
func DecideUninstall(_ config.Settings, f Facts) Plan {
	c := f.Container
	if c.ToolkitError != "" {
		return Plan{Refused: true, Why: c.ToolkitError, Hint: "remove the packages cuda-* and " + record.Path + " in the container yourself"}
	}
	if f.Deep == nil {
		return Plan{Deeper: true}
	}
	ours := f.Deep.Found.Log != "" || c.Recorded != "" || c.SetUp
	switch {
	case !ours && c.HasToolkit == "" && !c.HasDocker && !c.HasPackages && f.Deep.Found.Any():
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
	switch {
	case c.SetUp:
		what = append(what, "what leads programs to the shared driver")
	case ours:
		what = append(what, strings.TrimSpace("driver "+string(f.driver())))
	}
	if c.HasDocker {
		p.Steps = append(p.Steps, StepDockerRemove)
		what = append(what, "the Container Toolkit's configuration")
	}
	if c.HasToolkit != "" {
		p.Steps = append(p.Steps, StepToolkitRemove)
		what = append(what, c.HasToolkit)
	}
	if c.HasPackages {
		p.Steps = append(p.Steps, StepPackagesRemove)
		what = append(what, "what was installed for it")
	}
	if ours {
		p.Steps = append(p.Steps, StepUninstall)
	}
	if len(p.Steps) == 0 && !c.HasRecord && c.RecordError == "" {
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

// uninstallStep does one step of an uninstallation.
func (w *work) uninstallStep(ctx context.Context, step Step) (string, error) {
	arch := w.trace.Facts.Host.Arch
	switch step {
	case StepDockerRemove:
		return w.removeDocker(ctx)
	case StepToolkitRemove:
		return w.removeToolkit(ctx)
	case StepPackagesRemove:
		return w.removePackages(ctx)
	case StepUninstall:
		// From here on the record claims nothing. The toolkit, if any, is gone by now.
		if err := record.Remove(w.container); err != nil {
			return "", err
		}
		if err := w.takeShareAway(ctx); err != nil {
			return "", err
		}
		if err := driver.Uninstall(ctx, w.container, arch, w.installed, "", w.Settings.Install.Timeout, w.log); err != nil {
			return "", err
		}
		if w.trace.Facts.Container.SetUp {
			return "programs are not led to the shared driver any more", nil
		}
		return strings.TrimSpace("removed driver " + string(w.trace.Facts.driver())), nil
	case StepVerify:
		return "", w.gone(arch)
	case StepRecord:
		if err := cuda.Unpin(w.container); err != nil {
			return "", err
		}
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
	want := cudaWant(w.Settings, "", w.trace.Facts.Host.Arch)
	want.Save = w.saveToolkit
	if _, err := cuda.Remove(ctx, w.container, had, want, w.log); err != nil {
		return "", untouched(had.Name()+" cannot be removed", err)
	}
	return "removed " + had.Name(), nil
}

// untouched is the error of a step that comes before the driver's removal.
func untouched(what string, err error) error {
	return fmt.Errorf("the driver was not touched yet, %s: %w", what, err)
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
