package pve

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Want is what enable was asked for.
type Want struct {
	Volume string // the hookscript to set; "" keeps the one of this program that stands, else DefaultVolume
	Choice        // what it gets of the host's cards
	None   bool   // no devices are what was asked for
	DRI    bool   // the nodes in /dev/dri of the cards are among them
	Docker *bool  // NVIDIA's Container Toolkit is wanted; nil: as before
	Chain  bool   // another hookscript may be replaced and is run after this program's
}

// Plan is what enable or disable changes of one container, and what it says.
type Plan struct {
	VMID     int
	Set      []KV     // options of pct set
	Revert   []string // keys whose pending value is taken back
	Delete   []string // keys that go out of the live configuration
	Lines    []string // what is changed and what is left, in words; those of a change begin with "set " or "remove "
	Warnings []string
	Docker   bool  // whether the Container Toolkit is wanted changes
	State    State // what this program has put there, afterwards
}

// Empty reports whether nothing is to be changed.
func (p Plan) Empty() bool { return len(p.Set)+len(p.Revert)+len(p.Delete) == 0 && !p.Docker }

// Calls are the arguments of the calls of pct that do it, in their order. The
// hookscript comes by itself: Proxmox VE 9 writes nothing of a call when it
// cannot plug one of the devices into a running container. A pending value must
// be taken back before its key is deleted: Proxmox lets it win over the
// deletion, and takes both for one key in one call for a mistake.
func (p Plan) Calls() [][]string {
	set := []string{"set", strconv.Itoa(p.VMID)}
	var calls [][]string
	rest := slices.Clone(set)
	for _, kv := range p.Set {
		if kv.Key == "hookscript" {
			calls = append(calls, append(slices.Clone(set), "--hookscript", kv.Value))
		} else {
			rest = append(rest, "--"+kv.Key, kv.Value)
		}
	}
	if len(p.Revert) > 0 {
		calls = append(calls, append(slices.Clone(set), "--revert", strings.Join(p.Revert, ",")))
	}
	if len(p.Delete) > 0 {
		rest = append(rest, "--delete", strings.Join(p.Delete, ","))
	}
	if len(rest) > len(set) {
		calls = append(calls, rest)
	}
	return calls
}

func (p *Plan) set(key, value, why string) {
	p.Set = append(p.Set, KV{key, value})
	p.say("set %s: %s%s", key, value, why)
}

// remove takes a key out of what the next start makes live.
func (p *Plan) remove(c Conf, key string) {
	p.say("remove %s: %s", key, c.Next().value(key))
	if c.Pending.value(key) != "" {
		p.Revert = append(p.Revert, key)
	}
	if c.value(key) != "" {
		p.Delete = append(p.Delete, key)
	}
}

func (p *Plan) say(format string, args ...any) {
	p.Lines = append(p.Lines, fmt.Sprintf(format, args...))
}
func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

func dev(n int) string { return "dev" + strconv.Itoa(n) }

// PlanEnable decides how a container gets the hookscript and the devices.
// state is what earlier runs have put there: of that, what is no longer wanted
// goes. All else is the user's and stays.
func PlanEnable(c Conf, state State, w Want) (Plan, error) {
	p := Plan{VMID: c.VMID, State: State{Dev: map[int]string{}, None: w.None}}
	next := c.Next()
	had := state.Docker && state.of(next)
	state = state.adopt(next)
	p.State.remember(w.Choice)
	p.State.DRI, p.State.Docker = w.DRI, had
	if w.Docker != nil {
		p.State.Docker, p.Docker = *w.Docker, *w.Docker != had
	}
	if line := foreign(next.LXC); line != "" {
		return p, hint.Errorf(fmt.Sprintf("take that line out of /etc/pve/lxc/%d.conf, then enable it again", p.VMID),
			"container %d gets the host's driver by the line %q: with that it cannot have a driver of its own, and with devN entries it would not start", p.VMID, line)
	}
	if err := p.hookscript(next.Hookscript, w); err != nil {
		return p, err
	}

	wanted := map[string]bool{}
	for _, d := range w.Devices {
		wanted[d.Path] = true
	}
	standing := map[string]int{} // of several entries for one path the first counts
	for _, n := range sortedKeys(next.Dev) {
		path := devPath(next.Dev[n])
		if _, ok := standing[path]; !ok {
			standing[path] = n
		}
	}
	for _, n := range sortedKeys(state.Dev) {
		value, ok := next.Dev[n]
		switch {
		case !ok:
		case value != state.Dev[n]:
			p.say("keep %s: %s, it was changed by hand", dev(n), value)
		case !wanted[devPath(value)]:
			p.remove(c, dev(n))
			delete(next.Dev, n)
		default:
			p.State.Dev[n] = value
		}
	}
	switch {
	case p.Docker && had:
		p.say("remove docker.toolkit: true")
	case p.Docker:
		p.say("set docker.toolkit: true, NVIDIA's Container Toolkit for Docker and podman in it")
	}
	var lines []string // raw mount lines, with the nodes that they bring
	brought := map[string][]string{}
	for _, d := range w.Devices {
		_, stands := standing[d.Path]
		if line := mountedBy(next.LXC, d.Path); line != "" && !stands {
			if brought[line] == nil {
				lines = append(lines, line)
			}
			brought[line] = append(brought[line], d.Path)
			continue
		}
		if err := p.device(d, c, next, state, standing); err != nil {
			return p, err
		}
	}
	for _, line := range lines {
		p.warn("no devN entry for %s: the line %q passes it already; devN entries follow the host's device numbers, so better remove the line and enable again", list(brought[line]), line)
	}
	return p, nil
}

// hookscript decides about the one hookscript that a guest can have. Another one
// that is chained stands in the name of ours, which lies beside it.
func (p *Plan) hookscript(old string, w Want) error {
	volume, chain := w.Volume, ChainOf(old)
	switch {
	case Ours(old):
		volume = cmp.Or(volume, old)
	case old != "" && !w.Chain:
		return hint.Errorf("add --chain: pve-nvidia-hook then takes its place and runs it after its own work",
			"container %d has a hookscript already: %s", p.VMID, old)
	case old != "":
		chain = old
	}
	volume = cmp.Or(volume, DefaultVolume)
	if chain != "" {
		if volume = chaining(chain); w.Volume != "" && store(w.Volume) != store(chain) {
			return hint.Errorf("leave out --storage, or use --storage "+store(chain),
				"the hookscript of container %d must be in the same folder as %s, which it runs", p.VMID, chain)
		}
	}
	p.State.Hookscript = volume
	if old == volume {
		return nil
	}
	why := ""
	if old != "" {
		why = ", instead of " + old
		if chain == old {
			why += ", which is run after it"
		}
	}
	p.set("hookscript", volume, why)
	return nil
}

// store is the storage of a volume.
func store(volume string) string {
	id, _, _ := strings.Cut(volume, ":")
	return id
}

// device decides about one wanted node.
func (p *Plan) device(d Device, c Conf, next Section, state State, standing map[string]int) error {
	if n, ok := standing[d.Path]; ok {
		old := next.Dev[n]
		if _, ours := p.State.Dev[n]; ours {
			if old != d.entry() {
				p.set(dev(n), d.entry(), ", instead of "+old)
				p.State.Dev[n], next.Dev[n] = d.entry(), d.entry()
			}
			return nil
		}
		if _, recorded := state.Dev[n]; !recorded { // else it was said that it was changed by hand
			p.say("keep %s: %s, it was there already", dev(n), old)
		}
		if enabledLine().MatchString(old) {
			p.State.Kept = append(p.State.Kept, old)
		}
		if !strings.Contains(old, "mode=") && !strings.Contains(old, "gid=") && !strings.Contains(old, "uid=") {
			p.warn("%s has no mode=: only root can use %s in the container; for all users: pct set %d --%s %s,mode=0666", dev(n), d.Path, p.VMID, dev(n), old)
		}
		return nil
	}
	n, ok := freeNumber(c, next, d.entry())
	if !ok {
		return hint.Errorf("remove some devN entries", "container %d has all of dev0 to dev%d in use", c.VMID, maxDev)
	}
	p.set(dev(n), d.entry(), "")
	p.State.Dev[n], next.Dev[n], standing[d.Path] = d.entry(), d.entry(), n
	return nil
}

// freeNumber is the lowest number that neither the running container nor the
// next start uses. One whose deletion of this very entry is still pending comes
// first: setting it again calls that off.
func freeNumber(c Conf, next Section, entry string) (int, bool) {
	free := -1
	for n := maxDev; n >= 0; n-- {
		if next.Dev[n] != "" || c.Pending.Dev[n] != "" {
			continue
		}
		live, used := c.Dev[n]
		if used && live == entry {
			return n, true
		}
		if !used {
			free = n
		}
	}
	return free, free >= 0
}

// PlanDisable decides how to undo what enable did: the hookscript goes, or the
// one that it chains comes back, and those entries go that stand as enable put them.
func PlanDisable(c Conf, state State, chain string) Plan {
	p := Plan{VMID: c.VMID, State: State{Dev: map[int]string{}}}
	next := c.Next()
	state = state.adopt(next)
	switch {
	case next.Hookscript == "":
	case !Ours(next.Hookscript):
		p.say("keep hookscript: %s, it is not of pve-nvidia-hook", next.Hookscript)
	case chain != "":
		p.set("hookscript", chain, ", as before")
	default:
		p.remove(c, "hookscript")
	}
	for _, n := range sortedKeys(next.Dev) {
		value := next.Dev[n]
		set, recorded := state.Dev[n]
		switch {
		case recorded && value == set:
			p.remove(c, dev(n))
		case recorded:
			p.say("keep %s: %s, it was changed by hand", dev(n), value)
		case strings.HasPrefix(devPath(value), "/dev/nvidia"):
			p.say("keep %s: %s, it is not from enable", dev(n), value)
		}
	}
	return p
}
