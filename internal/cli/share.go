package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
)

// wantShare is what enable does about the line of the shared driver in a container: nil
// leaves it as it is.
func wantShare(s config.Settings, typed *bool) *bool {
	if typed == nil && s.Install.Deliver == record.ByShare {
		yes := true
		return &yes
	}
	return typed
}

// shares tells whether a container has the shared driver after enable.
func (a *app) shares(s config.Settings, typed *bool) bool {
	if want := wantShare(s, typed); want != nil {
		return *want
	}
	return pve.Shares(a.host.Root, s.VMID)
}

// canShare says why this node cannot share the driver with the containers that want it.
func canShare(settings []config.Settings, typed *bool) error {
	for _, s := range settings {
		if want := wantShare(s, typed); want != nil && *want {
			return share.Check(s.Paths.Run, s.Cache.Dir)
		}
	}
	return nil
}

// setShare puts the line of the shared driver into the files of containers or takes it
// out. It returns those in which it has changed something.
func setShare(ctx context.Context, root string, settings []config.Settings, typed *bool, dryRun bool, out io.Writer) (changed []int, err error) {
	out = say.Lines(out)
	var errs []error
	for _, s := range settings {
		want := wantShare(s, typed)
		g, found, err := pve.Find(root, s.VMID)
		if want == nil || err != nil || !found || g.NotHere(pve.LocalNode(root)) != nil {
			errs = append(errs, err)
			continue
		}
		entry, did, would := "", "removed", "would remove"
		if *want {
			entry, did, would = pve.ShareEntry(share.Point(s.Paths.Run), share.Folders(s.Paths.Run), !g.Conf.Unprivileged), "set", "would set"
		}
		done, err := pve.SetShareEntry(ctx, root, g, entry, dryRun)
		if err != nil || !done {
			errs = append(errs, err)
			continue
		}
		changed = append(changed, s.VMID)
		if dryRun {
			did = would
		}
		fmt.Fprintf(out, "container %s: %s the line that mounts the shared driver (lxc.mount.entry)\n", g, did)
	}
	return changed, errors.Join(errs...)
}

// sayShare tells which settings of a container the shared driver does not heed, and
// which it does not work with.
func (a *app) sayShare(s config.Settings, out io.Writer) {
	const key = "driver.capabilities"
	if from := s.Origin(key); from != "default" {
		fmt.Fprintf(out, "container %d: note: capabilities (%s) are for an installation: the shared driver has all but display\n", s.VMID, from)
	}
	if module, err := a.host.Module(); err == nil && module != "" && s.Driver.Version != "host" && s.Driver.Version != string(module) {
		fmt.Fprintf(out, "container %d: warning: driver %s is wanted (%s), but the shared driver is always that of the host's kernel module, %s: the container is left without one\n",
			s.VMID, s.Driver.Version, s.Origin("driver.version"), module)
	}
}

// bootShare is how long the node's boot waits for the shared driver.
const bootShare = 90 * time.Second

// shareAtBoot makes the shared driver ready for the containers of this node that have it,
// as far as nothing must be downloaded: their own start does that.
func (a *app) shareAtBoot(ctx context.Context) error {
	conf, err := a.load()
	if err != nil {
		return nil // said by all else
	}
	ctx, cancel := context.WithTimeout(ctx, bootShare)
	defer cancel()
	for _, g := range here(a.host.Root) {
		s, err := conf.For(g.VMID)
		if err != nil || !s.Wanted || !hook.Shares(a.host, s) {
			continue
		}
		err = hook.PrepareShare(ctx, s, hook.Options{Config: conf, Host: a.host, Log: a.log}, true)
		if err != nil {
			return fmt.Errorf("share the driver with containers: %w", err)
		}
		return nil // one mount serves all
	}
	return nil
}
