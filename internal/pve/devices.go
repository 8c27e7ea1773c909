package pve

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Device is a device node of this host.
type Device struct {
	Path string // /dev/nvidia0
	Mode uint32 // permission bits
	GID  string // of a node in /dev/dri: the id that its group has in the container, "" when that is not known
}

// entry is the value of the devN that brings the node into a container.
// Proxmox's default mode is 0660 for root alone, which is of no use to anyone
// else in the container. The capability nodes keep the host's mode: the one for
// MIG configuration is root's alone, and 0666 would hand it to every user.
// The nodes of /dev/dri are for the group that the container has for them; the uid,
// which is root's anyway, tells them from those that are set by hand.
func (d Device) entry() string {
	if strings.HasPrefix(d.Path, "/dev/dri/") {
		if d.GID != "" {
			return d.Path + ",gid=" + d.GID + ",mode=0660,uid=0"
		}
		return d.Path + ",mode=0666,uid=0"
	}
	mode := uint32(0o666)
	if strings.HasPrefix(d.Path, "/dev/nvidia-caps/") && d.Mode != 0 {
		mode = d.Mode & 0o777
	}
	return fmt.Sprintf("%s,mode=%04o", d.Path, mode)
}

// enabledLine matches what entry writes.
var enabledLine = lazy.Regexp(`^/dev/nvidia([0-9]+|ctl|-uvm|-uvm-tools|-modeset),mode=0666$|^/dev/nvidia-caps/nvidia-cap[0-9]+,mode=0[0-7]{3}$|^/dev/dri/(renderD|card)[0-9]+(,gid=[0-9]+,mode=0660|,mode=0666),uid=0$`)

var gpuNode = lazy.Regexp(`^/dev/nvidia([0-9]+)$`)

const devicesHint = "make the device nodes by: pve-nvidia-hook devices"

// NVIDIA reports whether the container has this program's hookscript or a
// device of the driver, by an entry or a mount, now or at its next start.
func (c Conf) NVIDIA() bool {
	return Ours(c.Hookscript) || Ours(c.Next().Hookscript) || len(c.Nodes()) > 0
}

// Nodes are the driver's nodes that the container's entries and mounts name, now or
// at its next start.
func (c Conf) Nodes() []string {
	nodes := map[string]bool{}
	for _, s := range []Section{c.Section, c.Next()} {
		for _, value := range s.Dev {
			nodes[devPath(value)] = true
		}
		for _, kv := range s.LXC {
			if fields := strings.Fields(kv.Value); kv.Key == "lxc.mount.entry" && len(fields) > 0 {
				nodes[fields[0]] = true
			}
		}
	}
	return slices.DeleteFunc(sortedKeys(nodes), func(path string) bool { return !strings.HasPrefix(path, "/dev/nvidia") })
}

// NextNodes are those of the next start alone.
func (c Conf) NextNodes() []string { return Conf{Section: c.Next()}.Nodes() }

// mountedBy returns the raw mount line that brings a node into the container
// already, itself or with its folder, or "".
func mountedBy(raw []KV, node string) string {
	for _, kv := range raw {
		if kv.Key != "lxc.mount.entry" {
			continue
		}
		fields := strings.Fields(kv.Value)
		if len(fields) < 2 {
			continue
		}
		target := path.Clean("/" + fields[1])
		if target == node || target != "/" && strings.HasPrefix(node, target+"/") {
			return kv.Key + ": " + kv.Value
		}
	}
	return ""
}
