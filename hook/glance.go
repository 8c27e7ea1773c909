package hook

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// State is how a container stands just now.
type State struct {
	Settings config.Settings
	Running  bool
	Shares   bool           // it is to have the shared driver
	Wanted   version.Driver // "" when none is, or it cannot be told
	// Has is what the container has: by its record when it is running, else by
	// its last run.
	Has Has
	// Plan is what a start would do now. Of a stopped container only a refusal
	// can be told; its steps depend on what is in it.
	Plan Plan
	Last *Trace    // its last run; nil: none is kept
	Busy string    // the run that works on it just now
	Use  inuse.Use // of the driver that it has, by its processes

	Devices []string // what is wrong with its GPUs
}

// Glance looks at a container. It changes nothing, takes no lock and starts no process
// in the container. It needs of o Config and Host.
func Glance(ctx context.Context, vmid int, o Options) (State, error) {
	settings, err := o.Config.For(vmid)
	w := &work{order: order{Settings: settings, HostRoot: o.Host.Root}, host: o.Host}
	runs := record.Runs{State: settings.Paths.State}
	s := State{Settings: settings, Shares: Shares(o.Host, settings)}
	var last Trace
	if had, lastErr := runs.Last(vmid, &last); had {
		s.Last = &last
		if last.Left != nil {
			s.Has = *last.Left
		}
	} else {
		err = errors.Join(err, lastErr)
	}
	f := Facts{Now: time.Now()}
	// Mistakes in its settings do not keep this from being told.
	var opened error
	if w.container, opened = lxc.Open(ctx, settings.Paths.LXC, vmid); opened == nil {
		defer w.container.Close()
		s.Running = true
		f.Container, w.installed = w.lookContainer()
		s.Has = hasOf(w.installed, f.Container.Mounted)
		if s.Has.Driver != "" {
			s.Use = Use(ctx, w.container, s.Has.Driver)
		}
	}
	switch {
	case err != nil:
		return s, err
	case opened != nil && !errors.Is(opened, lxc.ErrNotRunning):
		return s, opened
	}
	if f.Host, err = lookHost(o.Host); err != nil {
		return s, err
	}
	if !settings.Wanted {
		s.Plan = unwanted(settings)
		return s, nil
	}
	wanted, refused := wantedVersion(settings, f.Host)
	s.Wanted = wanted
	switch {
	case refused != nil:
		s.Wanted, s.Plan = refused.Wanted, *refused
	case s.Running:
		w.gather(f)
		s.Plan = Decide(settings, w.trace.Facts)
		s.Devices = w.trace.Facts.Container.Devices
		s.Busy, _ = Busy(ctx, settings, vmid) // no more than a word beside the rest
	default:
		s.Plan.Wanted = wanted
	}
	return s, nil
}

// Needed reports whether a plan leaves something to do or refuses to do it.
func (p Plan) Needed() bool { return p.Refused || p.Deeper || len(p.Steps) > 0 }

// Busy names the run that holds the container's lock, "" when none does.
func Busy(ctx context.Context, s config.Settings, vmid int) (string, error) {
	file := lockFile(s, vmid)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return "", nil // looking makes no file
	} else if err != nil {
		return "", err
	}
	// Taken shared and only for a moment: a run that waits for the lock tries again soon.
	held, err := lock.Take(ctx, file, lock.Options{Shared: true})
	if errors.Is(err, lock.ErrBusy) {
		return lock.Holder(file), nil
	}
	if err != nil {
		return "", err
	}
	return "", held.Release()
}
