package hook

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// State is how a container stands just now.
type State struct {
	Settings config.Settings
	Running  bool
	Wanted   version.Driver // "" when none is, or it cannot be told
	// Has is what the container has: by its record when it is running, else by
	// its last run.
	Has Has
	// Plan is what a start would do now. Of a stopped container only a refusal
	// can be told; its steps depend on what is in it.
	Plan Plan
	Last *Trace // its last run; nil: none is kept
	Busy string // who works on it just now
}

// Glance looks at a container without changing anything, waiting for nobody and
// starting no process in it. It needs of o Config and Host.
func Glance(ctx context.Context, vmid int, o Options) (State, error) {
	settings, err := o.Config.For(vmid)
	r := &run{Options: o, settings: settings}
	r.trace.VMID = vmid
	s := State{Settings: settings}
	var last Trace
	if had, lastErr := r.runs().Last(vmid, &last); had {
		s.Last = &last
		if last.Left != nil {
			s.Has = *last.Left
		}
	} else {
		err = errors.Join(err, lastErr)
	}
	if err != nil {
		return s, err
	}
	f := Facts{Now: time.Now()}
	if f.Host, err = lookHost(o.Host); err != nil {
		return s, err
	}
	if r.container, err = lxc.Open(ctx, settings.Paths.LXC, vmid); err == nil {
		defer r.container.Close()
		s.Running = true
		f.Container, r.installed = lookContainer(r.container, settings)
		s.Has = hasOf(r.installed)
	} else if !errors.Is(err, lxc.ErrNotRunning) {
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
		r.trace.Facts = f
		f.Container.Toolkit = r.toolkitMissing(wanted)
		f.Failure = r.runs().Failure(vmid)
		f.Inputs = r.digest(f)
		s.Plan = Decide(settings, f)
		s.Busy = busy(ctx, settings, vmid)
	default:
		s.Plan.Wanted = wanted
	}
	return s, nil
}

// Needed reports whether a plan leaves something to do or refuses to do it.
func (p Plan) Needed() bool { return p.Refused || p.Deeper || len(p.Steps) > 0 }

// busy names the run that holds the container's lock, or "".
func busy(ctx context.Context, s config.Settings, vmid int) string {
	file := lockFile(s, vmid)
	if _, err := os.Lstat(file); err != nil {
		return "" // looking makes no file
	}
	held, err := lock.Take(ctx, file, lock.Options{Shared: true})
	if errors.Is(err, lock.ErrBusy) {
		return lock.Holder(file)
	}
	if err == nil {
		_ = held.Release()
	}
	return ""
}

// lockFile is the lock of all runs on a container.
func lockFile(s config.Settings, vmid int) string {
	return filepath.Join(s.Paths.Run, strconv.Itoa(vmid)+".lock")
}
