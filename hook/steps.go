package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func (w *work) step(ctx context.Context, step Step) (note string, err error) {
	if w.Phase == PhaseUninstall {
		return w.uninstallStep(ctx, step)
	}
	shared := w.trace.Facts.Container.Share
	switch {
	case step == StepShare:
		return w.setUpShare(ctx)
	case shared && step == StepVerify:
		return w.verifyShare(ctx)
	case shared && step == StepUninstall:
		return w.replaceByShare(ctx)
	}
	switch step {
	case StepReplace:
		return w.replace(ctx)
	case StepUninstall:
		return w.uninstall(ctx)
	case StepInstall:
		return w.install(ctx)
	case StepVerify:
		return w.verify(ctx)
	case StepToolkit:
		return w.toolkit(ctx)
	case StepPackages:
		return w.packages(ctx)
	case StepDocker:
		return w.docker(ctx)
	case StepAfter:
		return w.after(ctx), nil
	case StepReboot:
		return w.reboot(ctx)
	case StepRecord:
		w.next.RebootDue = slices.Contains(w.trace.Plan.Steps, StepReboot)
		return "", record.Write(w.container, w.next)
	}
	return "", fmt.Errorf("unknown step %q", step)
}

func (w *work) uninstall(ctx context.Context) (string, error) {
	// This is checked while the old driver still works: a container that cannot
	// take the new one keeps the old.
	if err := driver.Ready(w.container, w.job(), w.installed); err != nil {
		return "", err
	}
	w.forgetDriver()
	if err := w.recordNoDriver(); err != nil {
		return "", err
	}
	if err := w.takeShareAway(ctx); err != nil {
		return "", err
	}
	keep := w.trace.Plan.Wanted
	err := driver.Uninstall(ctx, w.container, w.trace.Facts.Host.Arch, w.installed, keep, w.Settings.Install.Timeout, w.log)
	if err != nil && ctx.Err() == nil && w.container.Alive() {
		// The new driver is installed in any case, else the container would have
		// none. Its installer removes what is left of the old one.
		w.log.Warnf("%v; the installation goes on and replaces what is left", err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if w.trace.Facts.Container.SetUp {
		return "programs are not led to the shared driver any more", nil
	}
	if old := w.trace.Facts.Deep.Found.Version(); old != "" {
		return fmt.Sprintf("removed driver %s", old), nil
	}
	return "", nil
}

// forgetDriver removes the driver from the record that will be written.
func (w *work) forgetDriver() {
	w.next = record.Installed{Toolkit: w.next.Toolkit, Docker: w.next.Docker, Packages: w.next.Packages, Rebooted: w.next.Rebooted}
}

// replace removes the distribution's packages of the driver, as a person has asked.
func (w *work) replace(ctx context.Context) (string, error) {
	if !w.trace.Facts.Container.Share {
		if err := driver.Ready(w.container, w.job(), w.installed); err != nil {
			return "", err
		}
	}
	names, err := cuda.RemoveDriver(ctx, w.container, cuda.Want{Timeout: w.Settings.Install.Timeout}, w.log)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("removed the distribution's driver packages (%s)", say.Count(len(names), "package")), nil
}

// recordNoDriver writes the container's record without a driver. What it notes of the
// toolkits stays: nothing else tells an uninstallation what to remove.
func (w *work) recordNoDriver() error {
	if len(w.next.Toolkit)+len(w.next.Docker)+len(w.next.Packages) == 0 && w.next.Rebooted == "" {
		return record.Remove(w.container)
	}
	return record.Write(w.container, w.next)
}

func (w *work) job() driver.Job {
	return driver.Job{
		Tree:         w.Tree,
		Report:       w.Report,
		Capabilities: driver.Capabilities(w.Settings.Driver.Capabilities),
		Deliver:      w.Settings.Install.Deliver,
		Flags:        w.Settings.Driver.Flags,
		Timeout:      w.Settings.Install.Timeout,
		Log:          w.log,
	}
}

func (w *work) install(ctx context.Context) (string, error) {
	if err := driver.Ready(w.container, w.job(), w.installed); err != nil {
		return "", err
	}
	w.pin() // before the files, so that no package comes over them
	delivered, err := driver.Install(ctx, w.container, w.job())
	w.delivered = delivered
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("nvidia-installer %s ran in the container, delivered by %s", w.trace.Plan.Wanted, delivered), nil
}

// blind reports whether the container has no GPU for nvidia-smi to find. Then it is
// not run: in a privileged container it makes a device node of its own, and fails for
// another reason.
func (w *work) blind() bool {
	return w.trace.Facts.Container.NoGPU && !driver.AnyGPU(w.container)
}

// pin makes the package tool keep the distribution's driver out. The driver works
// without it too, so an error is only logged.
func (w *work) pin() {
	if err := cuda.Pin(w.container); err != nil {
		w.log.Warnf("%v", err)
	}
}

// pinLate adds a missing pin where all else is in place: an older version of this
// program did not add it, or somebody has removed it.
func (w *work) pinLate() {
	if w.DryRun || w.Phase != PhasePostStart || len(w.trace.Plan.Steps) > 0 || cuda.Pinned(w.container) {
		return
	}
	w.log.Infof("the package tool in the container is told to keep the distribution's driver out")
	w.pin()
}

// verify checks the installed driver: what the installer said proves nothing.
func (w *work) verify(ctx context.Context) (string, error) {
	p := w.trace.Plan
	w.pin() // what is adopted was not installed here
	if p.Adopt {
		if _, err := driver.Files(w.container, w.job()); err != nil {
			w.log.Infof("it cannot be taken over and is installed again: %v", err)
			for _, step := range []func(context.Context) (string, error){w.uninstall, w.install} {
				if note, err := step(ctx); err != nil {
					return note, err
				}
			}
		}
	}
	how := p.Verify
	blind := how == "nvidia-smi" && w.blind()
	if blind {
		how = "files"
	}
	files, err := driver.Verify(ctx, w.container, w.job(), how)
	if err == nil && blind {
		err = driver.NoNode(false)
	}
	w.next.Version, w.next.Arch, w.next.Files = p.Wanted, w.trace.Facts.Host.Arch, files
	w.next.Capabilities = w.Settings.Driver.Capabilities
	w.next.Verified, w.next.At, w.next.Program = p.Verify, time.Now(), version.Program
	if w.delivered != "" {
		w.next.Delivered = w.delivered
	}
	if err != nil {
		if files != nil && ctx.Err() == nil {
			// Only nvidia-smi has failed: the next run asks it again, and installs nothing.
			w.next.Verified = "files"
			err = errors.Join(err, record.Write(w.container, w.next))
		}
		if w.delivered != "" && files == nil {
			// Files are wrong. A failure of nvidia-smi is not the installer's.
			for _, line := range driver.LogTail(w.container, 6) {
				w.log.Warnf("nvidia-installer.log: %s", line)
			}
		}
		return "", err
	}
	if other := driver.Shadowed(w.container, w.trace.Facts.Host.Arch, p.Wanted); other != nil {
		w.log.Warnf("%v; %s", other, hint.Of(other))
	}
	if lacks, err := driver.Lacks(w.container, w.job(), files); err == nil {
		w.lacks(lacks.Packages, w.delivered != "")
	}
	if p.Verify == "files" && w.trace.Facts.Host.Module != p.Wanted {
		return fmt.Sprintf("all %d files are in place; nvidia-smi is left out until the host's module is %s", len(files), p.Wanted), nil
	}
	if p.Verify == "files" {
		return fmt.Sprintf("all %d files are in place; nvidia-smi was not run, as configured", len(files)), nil
	}
	return fmt.Sprintf("all %d files are in place and nvidia-smi says %s", len(files), p.Wanted), nil
}
