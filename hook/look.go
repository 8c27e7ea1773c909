package hook

import (
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

// look gathers the cheap facts: no process is started in the container, no
// network is touched.
func (w *work) look(ctx context.Context) error {
	f := Facts{Now: time.Now(), Request: w.Request}
	var err error
	if f.Host, err = lookHost(w.host); err != nil {
		return err
	}
	wait := initWait
	if w.NoWait || w.Phase == PhaseUninstall {
		wait = 0
	}
	if w.container, err = open(ctx, w.Settings.Paths.LXC, w.Settings.VMID, wait); err != nil {
		return w.notOpened(err)
	}
	w.container.OnLost(func() { close(w.lost) })
	w.gather(f)
	return nil
}

// notOpened says what to do about a container that cannot be looked at.
func (w *work) notOpened(err error) error {
	switch {
	case errors.Is(err, lxc.ErrUnknown):
		return hint.Wrap(err, pve.WhichHere)
	case !errors.Is(err, lxc.ErrNotRunning):
		return err
	case w.Phase == PhaseUninstall:
		return &refusal{hint.Errorf(fmt.Sprintf("start it first (pct start %d): the driver's own uninstaller runs in the container", w.Settings.VMID), "the container is not running")}
	case w.NoWait:
		return &refusal{hint.Errorf(fmt.Sprintf("start it: pct start %d", w.Settings.VMID), "the container is not running; its next start brings it into line")}
	}
	return hint.Wrap(err, "its init process is gone or has not started: see the container's console (pct console) and its log")
}

// gather completes the cheap facts with those of the container.
func (w *work) gather(f Facts) {
	f.Container, w.installed = w.lookContainer()
	w.trace.Facts = f
	wanted, _ := wantedVersion(w.Settings, f.Host)
	f.Container.Toolkit = w.toolkitMissing(wanted)
	f.Container.Docker = w.dockerMissing(wanted)
	devices, given := w.lookDevices()
	f.Container.Devices, f.Container.NoGPU = devices, !given
	f.Failure = record.Runs{State: w.Settings.Paths.State}.Failure(w.Settings.VMID)
	if f.Failure != nil { // else nobody compares it, and a start that has nothing to do must be quick
		f.Inputs = w.digest(f)
	}
	w.trace.Facts = f
}

// lookHost reads the facts of the node.
func lookHost(h host.Host) (HostFacts, error) {
	arch, err := host.Arch()
	if err != nil {
		return HostFacts{}, err
	}
	f := HostFacts{Arch: arch}
	module, err := h.Module()
	if err != nil {
		f.ModuleError = err.Error()
	}
	f.Module = module
	return f, nil
}

// initWait is how long a container's init may take to appear: Proxmox VE calls
// post-start just after its exec, vzdump and others a moment before or after it.
const initWait = 5 * time.Second

// open finds the container, waiting for an init process that is just starting.
func open(ctx context.Context, lxcPath string, vmid int, wait time.Duration) (*lxc.Container, error) {
	deadline := time.Now().Add(wait)
	for {
		c, err := lxc.Open(ctx, lxcPath, vmid)
		if errors.Is(err, lxc.ErrUnknown) || !errors.Is(err, lxc.ErrNotRunning) || !time.Now().Before(deadline) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// maxClaim is how many bytes of what a container claims are kept and shown.
const maxClaim = 300

// lookContainer reads the container's record and compares it with its files.
func (w *work) lookContainer() (ContainerFacts, *record.Installed) {
	c, s := w.container, w.Settings
	f := ContainerFacts{Privileged: c.Privileged()}
	in, err := record.Read(c)
	if err != nil {
		f.RecordError = say.Clean(err.Error(), maxClaim)
	}
	f.HasRecord = in != nil
	if in != nil {
		f.HasDocker, f.Rebooted, f.RebootDue = len(in.Docker) > 0, in.Rebooted, in.RebootDue
		f.HasPackages = len(in.Packages) > 0
		f.Packages = packagesMissing(in, s)
	}
	if had, err := recordedToolkit(in); err != nil {
		f.ToolkitError = say.Clean(err.Error(), maxClaim)
	} else if !had.Empty() {
		f.HasToolkit = say.Clean(had.Name(), maxClaim)
	}
	if in != nil && in.Version != "" {
		f.Recorded, f.Verified = in.Version, say.Clean(in.Verified, 40)
		if in.Delivered != record.ByShare {
			f.Differs = say.Clean(driver.Differs(c, in, s.Driver.Capabilities), maxClaim)
		}
	}
	w.lookShare(&f, in)
	return f, in
}

// lookDeep looks for what stands in the way of a driver, or of its removal.
func (w *work) lookDeep(ctx context.Context) *DeepFacts {
	c, arch, facts := w.container, w.trace.Facts.Host.Arch, w.trace.Facts.Container
	blockers := driver.Blockers
	if facts.Share || w.Phase == PhaseUninstall && facts.SetUp {
		blockers = driver.SharedBlockers
	}
	return &DeepFacts{driver.Look(c, arch), driver.AskRPM(ctx, c, arch, blockers(c, arch), w.log)}
}
