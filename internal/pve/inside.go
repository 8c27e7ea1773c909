package pve

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// Inside is what CheckNodes needs of a running container; *lxc.Container has it.
type Inside interface {
	LstatAll(names []string) []lxc.Entry
	ReadFile(name string, limit int64) ([]byte, error)
}

// CheckNodes says what is wrong with the driver's device nodes in a running
// container, as the host sees them through its root: missing, not a device, another
// device than the host's of that name (the major of nvidia-uvm is another one after
// a boot), or open to nobody but root. s is what the container was started with,
// nodes are the host's (host.NodesPresent). It starts no process; nothing of the
// container is believed but what nvidia-smi in it would meet as well.
func CheckNodes(c Inside, s Section, nodes []host.Node) []string {
	real := map[string]host.Node{}
	for _, n := range nodes {
		if n.IsChar {
			real[n.Path] = n
		}
	}
	var paths, values []string // of each node that the configuration brings
	add := func(path, target, value string) {
		if _, ok := real[path]; ok && target == path {
			paths, values = append(paths, path), append(values, value)
		}
	}
	for _, n := range sortedKeys(s.Dev) {
		add(devPath(s.Dev[n]), devPath(s.Dev[n]), s.Dev[n])
	}
	for _, kv := range s.LXC {
		if f := strings.Fields(kv.Value); kv.Key == "lxc.mount.entry" && len(f) > 1 {
			add(f[0], "/"+strings.TrimPrefix(f[1], "/"), "")
		}
	}
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	for i, e := range c.LstatAll(paths) {
		path, want := paths[i], real[paths[i]]
		major, minor := unix.Major(e.Rdev), unix.Minor(e.Rdev)
		switch {
		case errors.Is(e.Err, fs.ErrNotExist):
			say("%s is missing in the container", path)
		case e.Err != nil:
			say("%s in the container cannot be looked at: %v", path, e.Err)
		case e.Mode&fs.ModeCharDevice == 0:
			say("%s in the container is not a device: it was not there on the host when the container started", path)
		case major != want.Major || minor != want.Minor:
			say("%s in the container is device %d:%d, on the host it is %d:%d", path, major, minor, want.Major, want.Minor)
		case e.Mode.Perm()&0o006 != 0o006 && values[i] != "":
			if why := closed(c, values[i]); why != "" {
				say("%s in the container has mode %04o and %s: only root can use it", path, e.Mode.Perm(), why)
			}
		}
	}
	return said
}

// closed says why the group of a devN entry is of no use, "" when it is.
func closed(c Inside, entry string) string {
	gid := "0"
	for item := range strings.SplitSeq(entry, ",") {
		if value, ok := strings.CutPrefix(item, "gid="); ok {
			gid = value
		}
	}
	if gid == "0" {
		return "belongs to the group of root"
	}
	if all := Groups(c); all == nil || all[gid] != "" { // what cannot be read is no finding
		return ""
	}
	return "belongs to group " + gid + ", which the container does not have"
}

// Groups maps the ids of the container's groups to their names; nil when they
// cannot be read.
func Groups(c Inside) map[string]string {
	raw, err := c.ReadFile("/etc/group", maxFile)
	if err != nil {
		return nil
	}
	found := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 {
			if _, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				found[f[2]] = f[0]
			}
		}
	}
	return found
}
