package doctor

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// checkGuest judges one container: first what holds for its next start, then
// what is in it now.
func checkGuest(h hostFacts, f guestFacts) []Finding {
	if missing := checkThere(h, f); missing != nil {
		return missing
	}
	f.told = f.inside != nil && f.refusedFor(h)
	f.needsModule = f.lacksModule(h)
	all := checkSettings(f)
	all = append(all, checkHook(h, f)...)
	all = append(all, checkStarts(h, f)...)
	if f.unwanted() {
		return append(all, checkLock(f)...) // only what keeps it from starting concerns it
	}
	all = append(all, checkEntries(h, f)...)
	all = append(all, checkModes(f)...)
	all = append(all, checkRules(h, f)...)
	all = append(all, checkLock(f)...)
	all = append(all, checkInside(h, f)...)
	return append(all, checkRuns(f)...)
}

// unwanted reports whether somebody has chosen that no driver comes into the container.
func (f guestFacts) unwanted() bool { return f.settingsError == "" && !f.settings.Wanted }

// checkThere returns a finding when there is nothing more to look at here.
func checkThere(h hostFacts, f guestFacts) []Finding {
	const check = "container"
	switch {
	case h.pveError != "" && !f.unknown:
		return nil // LXC alone knows it
	case f.guest == nil && f.unknown && h.pveError != "" && !f.configured:
		list := "pct list"
		if h.noPVE {
			list = "lxc-ls -P " + f.settings.Paths.LXC
		}
		return one(check, Problem, list, "there is no container %d below %s", f.vmid, f.settings.Paths.LXC)
	case f.guest == nil && f.configured:
		return one(check, Warning, "take it out of the configuration if it is gone for good", "the configuration names container %d, which there is not", f.vmid)
	case f.guest == nil:
		return one(check, Problem, "pct list", "there is no container %d", f.vmid)
	case f.guest.VM:
		return one(check, Problem, "a VM gets a whole GPU by PCI passthrough; this program is for containers", "%s is a virtual machine, not a container", f.guest)
	case f.guest.Node != h.local:
		return one(check, Unknown, fmt.Sprintf("ssh %s pve-nvidia-hook doctor %d", f.guest.Node, f.vmid), "container %s is on node %s and cannot be looked at from here", f.guest, f.guest.Node)
	case f.guest.Err != nil:
		return one(check, Unknown, "", "its configuration cannot be read: %v", f.guest.Err)
	}
	return nil
}

func checkSettings(f guestFacts) []Finding {
	const check = "settings"
	if f.settingsError != "" {
		return one(check, Problem, f.settingsHint, "the settings of this container have mistakes: nothing is installed in it")
	}
	if f.unwanted() {
		return one(check, OK, "", "no driver is wanted in this container: %s", f.settings.WhyNot)
	}
	return one(check, OK, "", "a driver is wanted in this container")
}

// checkHook looks at the hookscript line and the file behind it.
func checkHook(h hostFacts, f guestFacts) []Finding {
	out := findings{check: "hookscript"}
	enable := fmt.Sprintf("pve-nvidia-hook enable %d", f.vmid)
	if h.pveError != "" {
		return nil // said once, of the host
	}
	if f.noKeep != "" {
		out.add(Unknown, "", "what enable has set is not known: %s", f.noKeep)
	}
	next := f.next.Hookscript
	switch {
	case pve.Ours(next), f.unwanted():
	case next != "" && f.state.Hookscript != "":
		out.add(Problem, enable+" --chain", "the hookscript was overwritten: it is %s instead of %s, so the driver no longer follows the host", next, f.state.Hookscript)
	case f.state.Hookscript != "":
		out.add(Problem, enable, "the hookscript line is gone: enable has set %s", f.state.Hookscript)
	case next != "":
		out.add(Warning, enable+" --chain", "the container has another hookscript, %s: it does not follow the host unless that calls this program", next)
	default:
		out.add(Warning, enable, "the container has no hookscript: it does not follow the host by itself")
	}
	if f.guest.Conf.Waits() {
		out.add(Warning, fmt.Sprintf("pct reboot %d", f.vmid), "changes of its hookscript or devices wait for the next start")
	}
	out.file(f.hook, enable)
	if f.hook.there && f.hook.exec {
		switch {
		case f.hook.err != "":
			out.add(Problem, f.hook.hint, "%s", f.hook.err)
		case !f.hookOurs:
			out.add(Warning, enable, "the hookscript %s is not the one of this version", f.hook.file)
		}
	}
	// It is run in every phase, and its failure is the hook's.
	out.file(f.chain, "put it back, or drop it: take chain out of the configuration, pve-nvidia-hook disable "+fmt.Sprint(f.vmid)+", then enable")
	if len(out.list) == 0 && !pve.Ours(next) {
		return nil // nobody wants it
	}
	return out.orOK("its hookscript is set and its file is in place")
}

// file says what of a hookscript's file keeps the container from starting.
func (f *findings) file(s script, fix string) {
	switch {
	case s.volume == "":
	case s.file == "" && s.hint == "":
		f.add(Unknown, "", "the file of the hookscript %s cannot be found out: %s", s.volume, s.err)
	case s.file == "":
		f.add(Problem, s.hint, "the container does not start: %s", s.err)
	case !s.there && s.err != "":
		f.add(Unknown, "", "the file of the hookscript %s cannot be looked at: %s", s.volume, s.err)
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

func checkLock(f guestFacts) []Finding {
	const check = "lock"
	switch {
	case f.lockError != "":
		return one(check, Unknown, "", "whether a run works on this container cannot be seen: %s", f.lockError)
	case f.holder != "":
		return one(check, Warning, "wait until it ends, then look again", "a run works on this container just now, so that what is said of it may change: %s", f.holder)
	}
	return one(check, OK, "", "no run works on this container")
}

// mend is what to do after a run that failed or was refused; "" when the last
// one did neither. What a run is refused for that is held back is the failure before it.
func (f guestFacts) mend() string {
	what := f.last.Hint
	switch {
	case f.failure != nil:
		what = f.failure.Hint
	case !f.ran || f.last.Result != "failed" && f.last.Result != "refused":
		return ""
	}
	if f.waits() { // what mends it need not end that time
		return hook.AtOnce(what, f.vmid)
	}
	what = strings.ReplaceAll(or(what, "mend the cause"), "VMID", strconv.Itoa(f.vmid))
	if strings.Contains(what, "next start") || strings.Contains(what, "pve-nvidia-hook apply") {
		return what
	}
	return fmt.Sprintf("%s; then: pve-nvidia-hook apply %d", what, f.vmid)
}

// waits reports whether a failure has the next run wait.
func (f guestFacts) waits() bool { return f.failure != nil && f.now.Before(f.failure.Next) }

// mismatch reports whether another driver is wanted than the kernel module's.
func (f guestFacts) mismatch(h hostFacts) bool {
	wanted := f.wanted(h)
	return wanted != "" && h.module != "" && wanted != h.module
}

// lacksModule reports whether a run would be refused because no kernel module is
// loaded, or none whose version can be told.
func (f guestFacts) lacksModule(h hostFacts) bool {
	d := f.settings.Driver
	return h.moduleError != "" || h.module == "" && (d.Version == "host" || d.OnMismatch != "install")
}

// refusedFor reports whether the last run was refused for that mismatch.
func (f guestFacts) refusedFor(h hostFacts) bool {
	return f.mismatch(h) && f.failure == nil && f.last.Result == "refused" &&
		strings.Contains(f.last.Reason, string(f.wanted(h))) && strings.Contains(f.last.Reason, string(h.module))
}

// checkRuns looks at how it went the last time.
func checkRuns(f guestFacts) []Finding {
	out := findings{check: "last-run"}
	fix := f.mend()
	switch {
	case f.waits():
		out.add(Problem, fix, "it failed %s, and is not tried again before %s: %s", hook.Times(f.failure.Count), when(f.failure.Next), f.failure.Reason)
	case f.failure != nil:
		out.add(Problem, fix, "it failed %s, the last time at %s: %s", hook.Times(f.failure.Count), when(f.failure.At), f.failure.Reason)
	case f.lastError != "":
		out.add(Unknown, "", "the last run cannot be read: %s", f.lastError)
	case !f.ran:
		out.add(Unknown, "", "no run is kept of this container: it has not started here since it has the hookscript")
	case f.last.Result == "failed":
		out.add(Problem, fix, "the last run, at %s, failed: %s", when(f.last.At), f.last.Reason)
	case f.told:
		out.add(OK, "", "the last run, at %s, was refused for the versions", when(f.last.At))
	case f.last.Result == "refused":
		out.add(Warning, fix, "the last run, at %s, was refused: %s", when(f.last.At), f.last.Reason)
	default:
		out.add(OK, "", "the last run, at %s: %s", when(f.last.At), f.last.Result)
	}
	return out.list
}
