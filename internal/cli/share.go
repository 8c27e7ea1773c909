package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
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
// out.
func setShare(ctx context.Context, root string, settings []config.Settings, typed *bool, dryRun bool, out io.Writer) error {
	out = say.Lines(out)
	var errs []error
	for _, s := range settings {
		want := wantShare(s, typed)
		g, found, err := pve.Find(root, s.VMID)
		if want == nil || err != nil || !found {
			errs = append(errs, err)
			continue
		}
		entry, did := "", "removed"
		if *want {
			entry, did = pve.ShareEntry(share.Point(s.Paths.Run), lxc.EmptyLayer, !g.Conf.Unprivileged), "set"
		}
		changed, err := pve.SetShareEntry(ctx, root, g, entry, dryRun)
		if err != nil || !changed {
			errs = append(errs, err)
			continue
		}
		if dryRun {
			did = map[string]string{"removed": "would remove", "set": "would set"}[did]
		}
		fmt.Fprintf(out, "container %s: %s the line that mounts the shared driver (lxc.mount.entry); this takes effect at the next start: pct reboot %d\n", g, did, g.VMID)
	}
	return errors.Join(errs...)
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
