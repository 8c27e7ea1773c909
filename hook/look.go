package hook

import (
	"context"
	"errors"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

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

// initWait is how long a container's init may take to appear: Proxmox calls
// post-start as soon as it was exec'd, vzdump and others a little off that.
const initWait = 5 * time.Second

// opener is lxc.Open or lxc.OpenLocal.
type opener func(ctx context.Context, lxcPath string, vmid int) (*lxc.Container, error)

// open finds the container, waiting for an init process that is just starting.
func open(ctx context.Context, find opener, lxcPath string, vmid int) (*lxc.Container, error) {
	deadline := time.Now().Add(initWait)
	for {
		c, err := find(ctx, lxcPath, vmid)
		if errors.Is(err, lxc.ErrUnknown) {
			return nil, hint.Wrap(err, pve.WhichHere)
		}
		if !errors.Is(err, lxc.ErrNotRunning) {
			return c, err
		}
		if time.Now().After(deadline) {
			return nil, hint.Wrap(err, "its init process is gone or has not started: see the container's console (pct console) and its log")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// claimMost is how many bytes of what a container claims are kept and shown.
const claimMost = 300

// lookContainer reads the container's record and compares it with its files.
func lookContainer(c *lxc.Container, s config.Settings) (ContainerFacts, *record.Installed) {
	f := ContainerFacts{Privileged: c.Privileged()}
	in, err := record.Read(c)
	if err != nil {
		f.RecordError = say.Clean(err.Error(), claimMost)
	}
	if in != nil && in.Version != "" {
		f.Recorded, f.Verified = in.Version, say.Clean(in.Verified, 40)
		f.Differs = say.Clean(driver.Differs(c, in, s.Driver.Capabilities), claimMost)
	}
	return f, in
}

func lookDeep(c *lxc.Container, arch string) *DeepFacts {
	return &DeepFacts{Found: driver.Look(c, arch), Blockers: driver.Blockers(c, arch)}
}
