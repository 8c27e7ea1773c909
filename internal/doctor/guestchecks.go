package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// guestChecks look at what the files of the node say of a container.
func guestChecks() []check {
	return []check{{
		name: "container", about: "it exists and is a container of this node",
		where: ofGuest, alone: true, run: checkThere,
	}, {
		name: "settings", about: "its settings have no mistakes; where no driver is wanted, only what prevents its start is checked",
		where: ofGuest,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			switch {
			case g.settingsError != nil:
				out.add(Problem, hint.Of(g.settingsError), "the settings of this container have mistakes: nothing is installed in it")
			case g.unwanted():
				out.add(OK, "", "no driver is wanted in this container: %s", g.settings.WhyNot)
			}
			out.orOK("a driver is wanted in this container")
		},
	}, {
		name: "wanted-version", about: "the driver version that it wants is that of the host's kernel module",
		where: ofWanted, after: []string{"settings"},
		run: func(h *hostFacts, g *guestFacts, out *findings) {
			wanted := g.wanted(*h)
			if wanted == "" || h.module == "" {
				return
			}
			if wanted != h.module {
				level := Problem
				if g.settings.Driver.OnMismatch == "install" && !g.shares() {
					level = Warning
				}
				out.add(level, fmt.Sprintf("set driver.version = \"host\", or load driver %s on the host", wanted),
					"driver %s is wanted (%s), the host's kernel module is %s: they must be exactly equal", wanted, g.settings.Origin("driver.version"), h.module)
			}
			out.orOK("driver %s is wanted", wanted)
		},
	}, {
		name: "hookscript", about: "its hookscript is this program's; the file is there, executable and of this version",
		where: ofGuest, run: checkHook,
	}, {
		name: "lock", about: "no run is active on it",
		where: ofGuest,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			switch {
			case g.lockError != nil:
				out.add(Unknown, "", "whether a run is active on this container is not known: %v", g.lockError)
			case g.holder != "":
				out.add(Warning, "wait until it ends, then run doctor again", "a run is active on this container, so this report may change: %s", g.holder)
			}
			out.orOK("no run is active on this container")
		},
	}}
}

// unwanted reports whether somebody has chosen that no driver comes into the container.
func (g guestFacts) unwanted() bool { return g.settingsError == nil && !g.settings.Wanted }

// apart reports that nothing on the node says that the container uses a GPU, as before
// enable and after disable. The check of its hookscript tells how to enable it.
func (g guestFacts) apart() bool {
	return g.guest != nil && !g.configured && !pve.Ours(g.next.Hookscript) && g.state.Hookscript == "" &&
		len(g.guest.Conf.NextNodes()) == 0 && !g.next.Shared()
}

// checkThere finds what makes it pointless to look at anything else.
func checkThere(h *hostFacts, g *guestFacts, out *findings) {
	unknown := errors.Is(g.insideError, lxc.ErrUnknown)
	switch {
	case h.pveError != nil && !unknown: // LXC alone knows it
	case g.guest == nil && unknown && h.pveError != nil && !g.configured:
		out.add(Problem, "pct list", "there is no container %d below %s", g.vmid, g.settings.Paths.LXC)
	case g.guest == nil && g.configured:
		out.add(Warning, "remove it from the configuration if it is gone for good", "the configuration names container %d, but there is no such container", g.vmid)
	case g.guest == nil:
		out.add(Problem, "pct list", "there is no container %d", g.vmid)
	case g.guest.VM:
		out.add(Problem, "a VM gets a whole GPU by PCI passthrough; this program is for containers", "%s is a virtual machine, not a container", g.guest)
	case g.guest.Node != h.local:
		out.add(Unknown, fmt.Sprintf("ssh %s pve-nvidia-hook doctor %d", g.guest.Node, g.vmid), "container %s is on node %s and cannot be checked from here", g.guest, g.guest.Node)
	case g.guest.Err != nil:
		out.add(Unknown, "", "its configuration cannot be read: %v", g.guest.Err)
	}
}

// checkHook looks at the hookscript line and the file behind it.
func checkHook(h *hostFacts, g *guestFacts, out *findings) {
	if h.pveError != nil {
		return // said once, of the host
	}
	enable := g.enable()
	if g.noKeep != nil {
		out.add(Unknown, "", "what enable has set is not known: %v", g.noKeep)
	}
	next := g.next.Hookscript
	switch {
	case pve.Ours(next), g.unwanted():
	case next != "" && g.state.Hookscript != "":
		out.add(Problem, enable+" --chain", "the hookscript was overwritten: it is %s instead of %s, so the driver no longer follows the host", next, g.state.Hookscript)
	case g.state.Hookscript != "":
		out.add(Problem, enable, "the hookscript line is gone: enable has set %s", g.state.Hookscript)
	case next != "":
		out.add(Warning, enable+" --chain", "the container has another hookscript, %s: the driver does not follow the host unless that script calls this program", next)
	default:
		out.add(Warning, enable, "the container has no hookscript: the driver does not follow the host by itself")
	}
	if g.guest.Conf.Waits() {
		out.add(Warning, g.restart(), "changes of its hookscript or devices take effect at the next start")
	}
	out.file(g.hook, enable)
	if g.hook.there && g.hook.exec {
		switch {
		case g.hook.err != nil:
			out.add(Problem, hint.Of(g.hook.err), "%v", g.hook.err)
		case !g.hookOurs:
			out.add(Warning, enable, "the hookscript %s is not the one of this version", g.hook.file)
		}
	}
	// It is run in every phase, and its failure is the hook's.
	drop := fmt.Sprintf("pve-nvidia-hook disable %d && %s", g.vmid, enable)
	if g.settings.Chain != "" {
		drop = fmt.Sprintf("remove chain (%s), then: %s", g.settings.Origin("chain"), drop)
	}
	out.file(g.chain, "put it back, or drop it: "+drop)
	if len(out.list) > 0 || !pve.Ours(next) {
		return // nobody wants it, or all is said
	}
	if g.chain.volume != "" {
		out.add(OK, "", "its hookscript is set and its file is in place; after it runs the chained script %s, whose exit status is that of the phase", g.chain.volume)
	}
	out.orOK("its hookscript is set and its file is in place")
}

// file says what of a hookscript's file keeps the container from starting.
func (f *findings) file(s script, fix string) {
	switch {
	case s.volume == "":
	case s.file == "" && hint.Of(s.err) == "":
		f.add(Unknown, "", "the file of the hookscript %s is not known: %v", s.volume, s.err)
	case s.file == "":
		f.add(Problem, hint.Of(s.err), "the container does not start: %v", s.err)
	case !s.there && s.err != nil:
		f.add(Unknown, "", "the file of the hookscript %s cannot be read: %v", s.volume, s.err)
	case !s.there:
		f.add(Problem, fix, "the container does not start: its hookscript %s is missing", s.file)
	case s.noexec:
		f.add(Problem, "mount it without noexec, or keep the file on another storage", "the container does not start: the file system of its hookscript %s is mounted noexec", s.file)
	case !s.exec:
		fix = "make it executable"
		if plain().MatchString(s.file) {
			fix = "chmod 755 " + s.file
		}
		f.add(Problem, fix, "the container does not start: its hookscript %s is not executable", s.file)
	}
}

// mend is what to do after a run that failed or was refused; "" when the last
// one did neither. A run that is held back is refused for the failure before it.
func (g guestFacts) mend() string {
	what := g.last.Hint
	switch {
	case g.failure != nil:
		what = g.failure.Hint
	case !g.ran || !g.last.Bad():
		return ""
	}
	if g.waits() { // mending the cause need not end that time
		return hook.AtOnce(what, g.vmid)
	}
	what = strings.ReplaceAll(cmp.Or(what, "remove the cause"), "VMID", strconv.Itoa(g.vmid))
	if strings.Contains(what, "next start") || strings.Contains(what, "pct reboot") || strings.Contains(what, "pve-nvidia-hook apply") {
		return what
	}
	return what + "; then: " + g.apply(false)
}

// waits reports whether a failure has the next run wait.
func (g guestFacts) waits() bool { return g.failure != nil && g.failure.HoldsBack(g.now) }

// needsModule reports whether a run would be refused because no kernel module is
// loaded, or none whose version is known.
func (g guestFacts) needsModule(h *hostFacts) bool {
	d := g.settings.Driver
	return h.moduleError != nil || h.module == "" && (d.Version == "host" || d.OnMismatch != "install")
}

// checkRuns looks at how it went the last time.
func checkRuns(h *hostFacts, g *guestFacts, out *findings) {
	fix := g.mend()
	switch {
	case g.ran && g.last.Bad() && g.last.Outdated(g.wanted(*h)):
		out.add(OK, "", "the last run, at %s: %s, but it was for driver %s, which is not wanted any more", when(g.last.At), g.last.Result, g.last.Plan.Wanted)
		return
	case g.waits():
		out.add(Problem, fix, "it failed %s, and the next attempt is at %s: %s", hook.Times(g.failure.Count), when(g.failure.Next), g.failure.Reason)
	case g.failure != nil:
		out.add(Problem, fix, "it failed %s, the last time at %s: %s", hook.Times(g.failure.Count), when(g.failure.At), g.failure.Reason)
	case g.lastError != nil:
		out.add(Unknown, "", "the last run cannot be read: %v", g.lastError)
	case !g.ran && g.apart():
		return
	case !g.ran:
		out.add(Unknown, "", "there is no record of a run on this node: it has not started here since it has the hookscript")
	case g.last.Result == hook.Failed:
		out.add(Problem, fix, "the last run, at %s, failed: %s", when(g.last.At), g.last.Reason)
	case g.last.Result == hook.Refused:
		out.add(Warning, fix, "the last run, at %s, was refused: %s", when(g.last.At), g.last.Reason)
		return // what it was refused for may be told already
	default:
		out.add(OK, "", "the last run, at %s: %s", when(g.last.At), g.last.Result)
	}
	out.follows()
}
