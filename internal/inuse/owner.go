package inuse

import (
	"regexp"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Owner is to whom a process belongs, by its cgroup below the container's. All
// empty: to nobody but itself.
type Owner struct {
	Unit   string `json:"unit,omitempty"`   // of the container's systemd, such as ollama.service
	User   string `json:"user,omitempty"`   // number of the user whose own systemd has the unit
	Engine string `json:"engine,omitempty"` // docker, podman, lxc or containerd
	Nested string `json:"nested,omitempty"` // its id or name there
}

// Restartable returns the unit that the container's own systemd can restart, or "".
func (o Owner) Restartable() string {
	if o.User != "" {
		return ""
	}
	return o.Unit
}

func (o Owner) short() string {
	if o.Engine != "lxc" && len(o.Nested) > 12 {
		return o.Nested[:12] // as docker ps and podman ps show it
	}
	return o.Nested
}

// Names in the cgroup tree, from outermost to innermost. systemd allows a unit no
// other characters (systemd.unit(5)), and puts "_" before a name that the kernel
// could take for one of its own files.
var (
	unitName    = lazy.Regexp(`^_?([A-Za-z0-9:_.@\\-]{1,240}\.service)$`)
	userManager = lazy.Regexp(`^user@([0-9]{1,10})\.service$`)
	nestedIDs   = []struct {
		engine string
		form   func() *regexp.Regexp
		parent string // the folder above, where the name alone does not tell
	}{
		{"docker", lazy.Regexp(`^docker-([0-9a-f]{64})\.scope$`), ""},
		{"docker", lazy.Regexp(`^([0-9a-f]{64})$`), "docker"},
		{"podman", lazy.Regexp(`^libpod-(?:payload-)?([0-9a-f]{64})(?:\.scope)?$`), ""},
		{"containerd", lazy.Regexp(`^cri-containerd-([0-9a-f]{64})\.scope$`), ""},
		{"lxc", lazy.Regexp(`^lxc\.payload\.([A-Za-z0-9_.-]{1,64})$`), ""},
		{"lxc", lazy.Regexp(`^([A-Za-z0-9_.-]{1,64})$`), "lxc"},
	}
)

// ownerOf reads a path such as /system.slice/ollama.service. The outermost name
// that tells something counts, but a nested container counts before the unit of
// its engine.
func ownerOf(path string) Owner {
	var o Owner
	above := ""
	for name := range strings.SplitSeq(path, "/") {
		for _, id := range nestedIDs {
			if m := id.form().FindStringSubmatch(name); m != nil && (id.parent == "" || id.parent == above) {
				o.Engine, o.Nested = id.engine, m[1]
				if !strings.HasPrefix(name, "libpod-payload-") {
					o.Unit = "" // a payload lies below the unit that is to be restarted
				}
				return o
			}
		}
		if m := userManager().FindStringSubmatch(name); m != nil && o.User == "" {
			o.User = m[1]
		} else if m := unitName().FindStringSubmatch(name); m != nil && o.Unit == "" {
			o.Unit = m[1]
		}
		above = name
	}
	if o.Unit == "" {
		o.User = ""
	}
	return o
}
