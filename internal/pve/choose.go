package pve

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Choice is what a container gets of the host's cards.
type Choice struct {
	Asked   string // all, none, or the cards by UUID: what holds also when numbers change
	Cards   []host.GPU
	Devices []Device
	Missing []string // useful nodes that the host lacks
	MIG     bool     // of a card only an instance
}

const gpuForms = "take all, none, or a list of GPUs: numbers as nvidia-smi counts (0,1), UUIDs or their beginning (GPU-5c4f), PCI addresses (01:00.0), models, or 0:1 for MIG instance 1 of GPU 0; see pve-nvidia-hook devices --list"

var (
	migItem   = lazy.Regexp(`^([0-9]{1,3}|GPU-[0-9a-fA-F-]+):([0-9]{1,3})$`)
	pciItem   = lazy.Regexp(`^(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$`)
	gpuNumber = lazy.Regexp(`^[0-9]{1,3}$`)
)

// CheckGPUs says whether words can be a choice of GPUs, whichever the host has.
func CheckGPUs(gpus string) error {
	if gpus = strings.TrimSpace(gpus); gpus == "" {
		return nil
	}
	if _, wrong := config.CheckGPUs(gpus); wrong != "" {
		return hint.Errorf(gpuForms, "%s", wrong)
	}
	return nil
}

// pick finds the cards of a choice among those of the host.
func pick(cards []host.GPU, gpus string) (c Choice, mig map[string][]host.Instance, err error) {
	c.Asked = cmp.Or(strings.TrimSpace(gpus), "all")
	switch c.Asked {
	case "none":
		return c, nil, nil
	case "all":
		c.Cards = cards
		return c, nil, nil
	}
	if err := CheckGPUs(gpus); err != nil {
		return c, nil, err
	}
	chosen := map[int]bool{}
	mig = map[string][]host.Instance{}
	var asked []string
	for item := range strings.SplitSeq(gpus, ",") {
		item = strings.TrimSpace(item)
		card, instance := item, ""
		if m := migItem().FindStringSubmatch(item); m != nil {
			card, instance = m[1], m[2]
		}
		g, err := one(cards, card)
		if err != nil {
			return c, nil, err
		}
		name := cmp.Or(g.UUID, g.Address, strconv.Itoa(g.Index))
		if instance != "" {
			n, _ := strconv.Atoi(instance) // three digits
			if n >= len(g.Instances) {
				return c, nil, hint.Errorf("make one by nvidia-smi mig, or see pve-nvidia-hook devices --list", "%s has %d MIG instances, so that there is no instance %d", g, len(g.Instances), n)
			}
			mig[g.Node()], name = append(mig[g.Node()], g.Instances[n]), name+":"+instance
			c.MIG = true
		}
		chosen[g.Index] = true
		if !slices.Contains(asked, name) {
			asked = append(asked, name)
		}
	}
	for _, g := range cards {
		if chosen[g.Index] {
			c.Cards = append(c.Cards, g)
		}
	}
	c.Asked = strings.Join(asked, ",")
	return c, mig, nil
}

// one finds the card that an item of a choice names.
func one(cards []host.GPU, item string) (host.GPU, error) {
	var found []host.GPU
	match := func(is func(host.GPU) bool) {
		if len(found) == 0 {
			found = slices.DeleteFunc(slices.Clone(cards), func(g host.GPU) bool { return !is(g) })
		}
	}
	m := pciItem().FindStringSubmatch(item)
	switch {
	case gpuNumber().MatchString(item):
		n, _ := strconv.Atoi(item)
		match(func(g host.GPU) bool { return g.Index == n })
	case m != nil:
		domain, _ := strconv.ParseUint(cmp.Or(m[1], "0"), 16, 32)
		address := strings.ToLower(fmt.Sprintf("%04x:%s:%s.%s", domain, m[2], m[3], m[4]))
		match(func(g host.GPU) bool { return strings.ToLower(g.Address) == address })
	case strings.HasPrefix(strings.ToUpper(item), "GPU-"):
		match(func(g host.GPU) bool { return strings.HasPrefix(strings.ToLower(g.UUID), strings.ToLower(item)) })
	default:
		name := func(s string) string { return strings.TrimPrefix(strings.ToLower(s), "nvidia ") }
		match(func(g host.GPU) bool { return g.Model != "" && name(g.Model) == name(item) })
		match(func(g host.GPU) bool { return strings.Contains(strings.ToLower(g.Model), strings.ToLower(item)) })
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return host.GPU{}, hint.Errorf(gpuForms, "there is no GPU %s: this host has %s", item, names(cards))
	}
	return host.GPU{}, hint.Errorf(gpuForms, "GPU %s is not unique: it may be %s", item, names(found))
}

func names(cards []host.GPU) string {
	var all []string
	for _, g := range cards {
		all = append(all, g.String())
	}
	return cmp.Or(list(all), "none")
}

// SelectDevices picks the nodes that a container gets: the common ones and those of
// the chosen cards. Of nvidia-caps it gets what opens the MIG instances that were
// chosen, and nothing else. cards may be unknown: then they are numbered as their nodes.
func SelectDevices(present []Device, cards []host.GPU, gpus string) (Choice, error) {
	there := map[string]Device{}
	for _, d := range present {
		there[d.Path] = d
	}
	if len(cards) == 0 {
		for _, path := range slices.Sorted(maps.Keys(there)) {
			if m := gpuNode().FindStringSubmatch(path); m != nil {
				n, _ := strconv.Atoi(m[1])
				cards = append(cards, host.GPU{Index: n, Minor: uint32(n)})
			}
		}
	}
	if ctl := there["/dev/nvidiactl"]; (ctl.Path == "" || len(cards) == 0) && strings.TrimSpace(gpus) != "none" && CheckGPUs(gpus) == nil {
		return Choice{}, hint.Errorf("pve-nvidia-hook doctor says what this node lacks; or take --gpus none to set the hookscript only",
			"this host has no device nodes of an NVIDIA GPU (/dev/nvidiactl, /dev/nvidia0)")
	}
	c, mig, err := pick(cards, gpus)
	if err != nil || c.Asked == "none" {
		return c, err
	}
	wanted := []string{"/dev/nvidiactl"}
	var caps []string
	for _, g := range c.Cards {
		if _, ok := there[g.Node()]; !ok {
			return c, hint.Errorf(devicesHint, "the node %s of %s is missing", g.Node(), g)
		}
		wanted = append(wanted, g.Node())
		for _, i := range mig[g.Node()] {
			for _, minor := range i.Caps {
				caps = append(caps, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor))
			}
		}
	}
	for _, path := range append(append(wanted, "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"), caps...) {
		d, ok := there[path]
		switch {
		case ok && !slices.Contains(c.Devices, d):
			c.Devices = append(c.Devices, d)
		case !ok && path != "/dev/nvidia-modeset":
			c.Missing = append(c.Missing, path)
		}
	}
	return c, nil
}

// list joins names as a sentence does.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// Caps are the minors of nodes of nvidia-caps that the container's entries name.
func (c Conf) Caps() []uint32 {
	var minors []uint32
	for _, value := range c.Next().Dev {
		if number, ok := strings.CutPrefix(devPath(value), "/dev/nvidia-caps/nvidia-cap"); ok {
			if n, err := strconv.ParseUint(number, 10, 20); err == nil {
				minors = append(minors, uint32(n))
			}
		}
	}
	return minors
}

var hostFile = lazy.Regexp(`^(lib(cuda|nvidia-|nvcuvid|nvoptix|GLX_nvidia|EGL_nvidia)[^/]*\.so[^/]*|nvidia-smi)$`)

// foreign returns the line that brings the host's driver into the container in
// another way, or "": LXC's own hook, after which no devN entry can be mounted, and
// libraries of the host, into which the installer would write.
func foreign(raw []KV) string {
	for _, kv := range raw {
		fields := strings.Fields(kv.Value)
		switch {
		case len(fields) == 0:
		case kv.Key == "lxc.hook.mount" && strings.HasSuffix(fields[0], "/hooks/nvidia"),
			kv.Key == "lxc.mount.entry" && hostFile().MatchString(fields[0][strings.LastIndex(fields[0], "/")+1:]):
			return kv.Key + ": " + kv.Value
		}
	}
	return ""
}

// NodesOf are the nodes of the cards that a choice of GPUs names, without those that
// all containers get. A number that no card has stands for its node. The error is
// about the others that the host lacks.
func NodesOf(cards []host.GPU, gpus string) (nodes []string, err error) {
	for item := range strings.SplitSeq(gpus, ",") {
		item = strings.TrimSpace(item)
		c, _, e := pick(cards, item)
		n, number := strconv.ParseUint(item, 10, 8)
		switch {
		case e == nil && len(c.Cards) > 0:
			nodes = append(nodes, c.Cards[0].Node())
		case number == nil:
			nodes = append(nodes, host.GPU{Minor: uint32(n)}.Node())
		default:
			err = errors.Join(err, e)
		}
	}
	return nodes, err
}
