package doctor

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// guestFacts are of one container, as the host's files tell of it; what only a
// running one tells is in inside.
type guestFacts struct {
	vmid          int
	name          string
	now           time.Time
	settings      config.Settings
	settingsError error
	configured    bool // a file of the configuration names it

	guest  *pve.Guest  // nil: Proxmox does not know it, or is not here
	live   pve.Section // what it was started with
	next   pve.Section // what it is started with the next time
	state  pve.State
	noKeep error // why what enable has set is not known

	hook     script // this program's hookscript in the live or the next configuration
	hookOurs bool   // it is this version's snippet
	chain    script // the other one that runs after it

	hostHas map[string]bool // sources of the entries: whether they are devices; absent: not known

	shareError error        // why this node cannot share the driver with it
	shared     share.Layout // what this node shares, where it is to have that

	holder    string // who holds the lock of this container's runs; "" nobody
	lockError error

	failure   *record.Failure
	last      hook.Trace
	ran       bool
	lastError error

	inside      *insideFacts // nil: could not be looked into
	insideError error
}

// script is a hookscript and the file behind it.
type script struct {
	volume string // "" when there is none
	file   string // path on the node; "" when it cannot be found out
	there  bool
	exec   bool
	noexec bool // its file system runs no programs
	err    error
}

// choose lists the containers to look at: those asked for, else those of this
// node that follow the host, or should since enable.
func choose(c *config.Config, root string, h hostFacts, asked []int) []int {
	if len(asked) == 0 {
		for id, standing := range pve.Standings(root, h.listed, c) {
			if standing >= pve.Lost {
				asked = append(asked, id)
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(asked)))
}

func lookGuest(ctx context.Context, c *config.Config, host host.Host, h hostFacts, vmid int) guestFacts {
	f := guestFacts{vmid: vmid, now: time.Now(), hostHas: map[string]bool{}}
	f.settings, f.settingsError = c.For(vmid)
	f.configured = slices.Contains(c.Containers(), vmid)
	f.name = f.settings.Name
	for i := range h.listed {
		if h.listed[i].VMID == vmid {
			f.guest = &h.listed[i]
			f.name = f.guest.Conf.Hostname
			f.live, f.next = f.guest.Conf.Section, f.guest.Conf.Next()
		}
	}
	f.state, f.noKeep = pve.ReadState(f.settings.Paths.State, vmid)
	f.lookHook(host, h)
	for _, e := range entries(f.next) {
		info, err := os.Stat(host.Path(e.source))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			// A folder of nodes is mounted as a whole.
			f.hostHas[e.source] = err == nil && (info.IsDir() || info.Mode()&fs.ModeDevice != 0)
		}
	}
	f.lookRuns(ctx)
	f.lookShare()
	if !f.away(h) {
		f.lookInside(ctx, h)
	}
	return f
}

// away reports whether the guest is none of this node's containers.
func (f guestFacts) away(h hostFacts) bool {
	return f.guest != nil && (f.guest.VM || f.guest.Node != h.local)
}

func (f *guestFacts) lookHook(host host.Host, h hostFacts) {
	for _, volume := range []string{f.next.Hookscript, f.live.Hookscript} {
		if pve.Ours(volume) {
			f.hook = lookScript(host, h, volume)
			break
		}
	}
	if f.hook.there {
		f.hookOurs, f.hook.err = pve.SnippetStands(host.Path(f.hook.file))
	}
	chained := cmp.Or(f.settings.Chain, pve.ChainOf(f.hook.volume))
	if f.hook.volume != "" && chained != "" {
		f.chain = lookScript(host, h, chained)
	}
}

// lookScript looks at the file of a hookscript as Proxmox does: it must be a
// regular file, or a link to one, and executable.
func lookScript(host host.Host, h hostFacts, volume string) script {
	s := script{volume: volume, err: h.noStore}
	if h.noStore != nil {
		return s
	}
	file, err := h.storages.Path(volume)
	if err != nil {
		s.err = err
		return s
	}
	s.file = file
	info, err := os.Stat(host.Path(file))
	switch {
	case err == nil:
		s.there, s.exec = info.Mode().IsRegular(), info.Mode()&0o111 != 0
		s.noexec = pve.NoExec(host.Path(file))
	case !errors.Is(err, fs.ErrNotExist):
		s.err = err
	}
	return s
}

// lookRuns reads what the host keeps of earlier runs, and whether one goes on.
func (f *guestFacts) lookRuns(ctx context.Context) {
	runs := record.Runs{State: f.settings.Paths.State}
	f.failure = runs.Failure(f.vmid)
	f.ran, f.lastError = runs.Last(f.vmid, &f.last)
	f.holder, f.lockError = hook.Busy(ctx, f.settings, f.vmid)
}

// wanted is the driver that the container should have, or "" when that is not known.
func (f guestFacts) wanted(h hostFacts) version.Driver {
	if f.settingsError != nil || f.unwanted() {
		return ""
	}
	if f.settings.Driver.Version != "host" {
		return version.Driver(f.settings.Driver.Version)
	}
	return h.module
}
