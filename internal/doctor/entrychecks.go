package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// entryChecks look at what brings device nodes into a container.
func entryChecks() []check {
	return []check{{
		name: "entries-on-host", about: "the host has what its devN and lxc.mount.entry lines name",
		where: ofGuest, after: []string{"kernel-module", "device-nodes"}, run: checkStarts,
	}, {
		name: "entries", about: "these lines pass the chosen GPUs, each node once",
		where: ofWanted, run: checkEntries,
	}, {
		name: "entry-mode", about: "no devN is for root alone (Proxmox's default is 0660)",
		where: ofWanted, run: checkModes,
	}, {
		name: "device-rules", about: "its lxc.cgroup2.devices.allow lines allow the nodes that its mounts bring, with the numbers that they have now",
		where: ofWanted, run: checkRules,
	}}
}

// checkStarts finds the entries that Proxmox or LXC fails on.
func checkStarts(h *hostFacts, f *guestFacts, out *findings) {
	n := 0
	for _, e := range entries(f.next) {
		if !e.dev() && !e.nvidia() {
			continue
		}
		n++
		there, known := f.hostHas[e.source]
		fix := makeNodes
		if !e.nvidia() {
			fix = ""
		}
		switch {
		case !known:
			out.add(Unknown, "", "whether the host has %s is not known", e.source)
		case there:
			continue
		case e.dev():
			out.add(Problem, h.orDelete(fix, f.vmid, e), "the container does not start: %s names %s, which the host lacks", e.key, e.source)
		case e.optional:
			out.add(Problem, fix, "the host lacks %s: the line %q then makes an empty file of that name in the container", e.source, mountKey+": "+e.value)
		default:
			out.add(Problem, fix, "the container does not start: the host lacks %s of the line %q", e.source, mountKey+": "+e.value)
		}
		if !e.nvidia() || h.module != "" && !h.expects(e.source) {
			out.follows() // the driver would not make it
		}
	}
	if n > 0 {
		out.orOK("the host has what its %d device entries name", n)
	}
}

// orDelete adds to what to do about an entry what to do when its device is not
// one that the driver would have now.
func (h *hostFacts) orDelete(fix string, vmid int, e entry) string {
	other := fmt.Sprintf("pct set %d --delete %s", vmid, e.key)
	switch {
	case fix == "":
		return other
	case h.module == "" || h.expects(e.source):
		return fix
	}
	return fix + "; or, if that device is gone for good: " + other
}

// checkEntries looks for nodes that nothing or too much brings.
func checkEntries(h *hostFacts, f *guestFacts, out *findings) {
	if f.guest == nil {
		return
	}
	list := entries(f.next)
	any := false
	for i, e := range list {
		any = any || e.nvidia() || e.brings("/dev/nvidiactl")
		for _, before := range list[:i] {
			if e.nvidia() && before.target == e.target {
				fix := fmt.Sprintf("remove the line from /etc/pve/lxc/%d.conf", f.vmid)
				if e.dev() {
					fix = fmt.Sprintf("pct set %d --delete %s", f.vmid, e.key)
				}
				out.add(Warning, fix, "%s and %q both pass %s", before.key, e.key+": "+e.value, e.target)
			}
		}
	}
	needed, gpu := f.needed(h)
	switch {
	case !any && len(needed) == 0 && f.explicitGPUs():
		out.orOK("no GPU is chosen for this container: gpus is none in %s", f.settings.Origin("gpus"))
		return
	case !any && len(needed) == 0:
		out.orOK("no GPU is chosen for this container: enable --gpus none has set the hookscript only")
		return
	case !any && f.apart():
		return
	case !any:
		out.add(Problem, f.giveGPUs(), "no entry gives the container a GPU's device nodes")
		return
	}
	missing := slices.DeleteFunc(needed, func(node string) bool {
		return slices.ContainsFunc(list, func(e entry) bool { return e.brings(node) })
	})
	if gpu && !slices.ContainsFunc(list, func(e entry) bool { return isGPU(e.target) || !e.dev() && e.target == "/dev" }) {
		missing = append(missing, "any of /dev/nvidia0 and so on")
	}
	if len(missing) > 0 {
		out.add(Problem, f.giveGPUs(), "no entry passes %s into the container", strings.Join(missing, ", "))
	}
	out.orOK("its entries pass what the chosen GPUs need")
}

// gpus is what enable is given to bring what the container should have.
func (f guestFacts) gpus() string {
	if f.settings.GPUs == "" || f.settings.GPUs == "none" {
		return "all"
	}
	return f.settings.GPUs
}

// needed lists the nodes that the container must get: those of the GPUs that the
// configuration names, else those that enable has put there. gpu is true when
// any GPU will do: nobody has said which.
func (f guestFacts) needed(h *hostFacts) (nodes []string, gpu bool) {
	common := []string{"/dev/nvidiactl", "/dev/nvidia-uvm"}
	chosen := f.settings.GPUs
	explicit := f.explicitGPUs()
	switch {
	case explicit && chosen == "none":
		return nil, false
	case explicit && chosen != "all":
		nodes, err := pve.NodesOf(h.kernel.Driven, chosen)
		return append(common, nodes...), err != nil
	case f.state.None && !explicit:
		return nil, false // enable --gpus none
	case explicit:
		for _, n := range h.kernel.GPUs {
			common = append(common, fmt.Sprintf("/dev/nvidia%d", n))
		}
		return common, len(h.kernel.GPUs) == 0
	}
	for _, n := range slices.Sorted(maps.Keys(f.state.Dev)) {
		if node := devEntry("", f.state.Dev[n]).source; !slices.Contains(common, node) {
			common = append(common, node)
		}
	}
	return common, true
}

// explicitGPUs reports whether a file of the configuration chooses the GPUs.
func (f guestFacts) explicitGPUs() bool { return f.settings.Origin("gpus") != "default" }

func isGPU(node string) bool {
	number, ok := strings.CutPrefix(node, "/dev/nvidia")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// checkModes: a devN without mode= is for root in the container alone.
func checkModes(_ *hostFacts, f *guestFacts, out *findings) {
	n := 0
	for _, e := range entries(f.next) {
		// The capability nodes are closed on purpose.
		if !e.dev() || !e.nvidia() || strings.HasPrefix(e.target, "/dev/nvidia-caps/") {
			continue
		}
		n++
		if e.mode&0o006 != 0o006 && !e.owned {
			fix := fmt.Sprintf("give %s the mode 0666", e.key)
			if plain().MatchString(e.value) {
				fix = fmt.Sprintf("pct set %d --%s %s", f.vmid, e.key, open(e.value))
			}
			out.add(Warning, fix, "%s gives %s the mode %04o: only root in the container can use it", e.key, e.source, e.mode)
		}
	}
	if n > 0 {
		out.orOK("every user in the container may use the nodes of its devN entries")
	}
}

// plain is text of a configuration that means nothing to a shell, and so can
// stand in a command that a person may paste.
var plain = lazy.Regexp(`^[A-Za-z0-9/._,=:+@-]{1,200}$`)

// open is the value of a devN entry with a mode for everybody.
func open(value string) string {
	items := slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return strings.HasPrefix(s, "mode=") })
	return strings.Join(append(items, "mode=0666"), ",")
}

// checkRules compares hand-written lxc.cgroup2.devices.allow lines with what the
// kernel says now. Proxmox writes those for devN itself, at each start.
func checkRules(h *hostFacts, f *guestFacts, out *findings) {
	var list, ignored []rule
	for _, r := range rules(f.next) {
		if r.legacy && h.cgroup2 {
			ignored = append(ignored, r)
		} else {
			list = append(list, r)
		}
	}
	file := fmt.Sprintf("/etc/pve/lxc/%d.conf", f.vmid)
	checked := len(ignored)
	level := Warning // of the ignored ones
	for _, e := range entries(f.next) {
		if e.dev() || !isGPU(e.target) && e.target != "/dev/nvidiactl" && e.target != "/dev/nvidia-uvm" {
			continue
		}
		n, there := h.node(e.source)
		if !there || !n.IsChar {
			continue // said elsewhere
		}
		checked++
		allows := func(r rule) bool { return r.allows(n.Major, n.Minor) }
		switch {
		case slices.ContainsFunc(list, allows):
		case slices.ContainsFunc(ignored, allows):
			level = Problem
		default:
			out.add(Problem, fmt.Sprintf("add the line 'lxc.cgroup2.devices.allow: c %d:* rwm' to %s, above its first [section]; better: remove its %s lines and run pve-nvidia-hook enable %d, which follows the numbers", n.Major, file, mountKey, f.vmid),
				"no lxc.cgroup2.devices.allow line lets the container open %s, which has the numbers %d:%d now", e.source, n.Major, n.Minor)
		}
	}
	if len(ignored) > 0 {
		out.add(level, fmt.Sprintf("sed -i 's/^%s/%s/' %s", legacyKey, allowKey, file),
			"LXC ignores the line %q: it is for control groups of version 1, and this host has version 2 alone", ignored[0].key+": "+ignored[0].value)
	}
	if checked > 0 {
		out.orOK("its device rules allow the nodes that its mounts bring")
	}
}
