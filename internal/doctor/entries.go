package doctor

import (
	"path"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// entry is one way in which a device node comes into a container.
type entry struct {
	key      string // dev0, or lxc.mount.entry
	source   string // on the host
	target   string // in the container
	mode     uint32 // of a devN: what Proxmox sets
	owned    bool   // a devN that names a uid or gid for its node
	optional bool   // a mount that may fail without a word
	folder   bool   // a mount of a folder that holds nodes
	value    string // as it is written
}

// dev reports whether the entry is a devN.
func (e entry) dev() bool { return e.key != mountKey }

const mountKey = "lxc.mount.entry"

// devMode is what Proxmox gives a devN node without mode=: root alone may use it.
const devMode = 0o660

// entries lists what brings device nodes into a container, devN first.
func entries(s pve.Section) []entry {
	var list []entry
	for n := range 256 {
		if value, ok := s.Dev[n]; ok {
			list = append(list, devEntry("dev"+strconv.Itoa(n), value))
		}
	}
	for _, kv := range s.LXC {
		if kv.Key != mountKey {
			continue
		}
		// source target type options
		f := strings.Fields(kv.Value)
		if len(f) < 2 || !strings.HasPrefix(f[0], "/dev/") {
			continue
		}
		e := entry{key: mountKey, source: path.Clean(f[0]), target: path.Clean("/" + f[1]), value: kv.Value}
		if len(f) > 3 {
			for option := range strings.SplitSeq(f[3], ",") {
				e.optional = e.optional || option == "optional"
				e.folder = e.folder || option == "create=dir"
			}
		}
		list = append(list, e)
	}
	return list
}

func devEntry(key, value string) entry {
	e := entry{key: key, mode: devMode, value: value}
	for item := range strings.SplitSeq(value, ",") {
		name, v, named := strings.Cut(item, "=")
		switch {
		case !named: // wherever it stands
			e.source = path.Clean(item)
		case name == "path":
			e.source = path.Clean(v)
		case name == "mode":
			if n, err := strconv.ParseUint(v, 8, 12); err == nil {
				e.mode = uint32(n)
			}
		case name == "uid", name == "gid":
			e.owned = e.owned || v != "0"
		}
	}
	e.target = e.source
	return e
}

// nvidia reports whether the entry is about a GPU.
func (e entry) nvidia() bool { return strings.HasPrefix(e.target, "/dev/nvidia") }

// brings reports whether the entry makes a node appear in the container.
func (e entry) brings(node string) bool {
	return e.target == node || !e.dev() && strings.HasPrefix(node, e.target+"/")
}

// rule is a line lxc.cgroup2.devices.allow, or lxc.cgroup.devices.allow for
// control groups of version 1: which devices a container may open.
type rule struct {
	legacy       bool // for version 1
	all          bool // the line "a"
	kind         string
	major, minor string // a number or *
	access       string
	key, value   string // as it is written
}

const (
	allowKey  = "lxc.cgroup2.devices.allow"
	legacyKey = "lxc.cgroup.devices.allow"
)

func rules(s pve.Section) []rule {
	var list []rule
	for _, kv := range s.LXC {
		if kv.Key != allowKey && kv.Key != legacyKey {
			continue
		}
		r := rule{legacy: kv.Key == legacyKey, key: kv.Key, value: kv.Value}
		f := strings.Fields(kv.Value)
		if len(f) == 0 {
			continue
		}
		r.kind = f[0]
		r.all = f[0] == "a"
		if len(f) > 1 {
			r.major, r.minor, _ = strings.Cut(f[1], ":")
		}
		if len(f) > 2 {
			r.access = f[2]
		}
		list = append(list, r)
	}
	return list
}

// allows reports whether the rule lets a container read and write a character device.
func (r rule) allows(major, minor uint32) bool {
	match := func(pattern string, n uint32) bool { return pattern == "*" || pattern == strconv.Itoa(int(n)) }
	return r.all || r.kind == "c" && match(r.major, major) && match(r.minor, minor) &&
		strings.Contains(r.access, "r") && strings.Contains(r.access, "w")
}
