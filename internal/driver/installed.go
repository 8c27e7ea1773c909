package driver

import (
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// noted is what the installer has noted down of its work in installerState/log,
// for its uninstaller: behind two lines at the top "0: LINK" and its target, "1: FILE" and
// a checksum, "2: LINK" and target and owner of a link that was there before, or
// a higher number for a file that was, which it has moved to installerState under
// that number.
type noted struct {
	files []string
	links []record.File
	moved []string // what was there before
}

// readNoted reads it. The log is the container's: at most 1 MB is read, and names
// are claims.
func readNoted(c *lxc.Container) noted {
	var n noted
	text, err := c.ReadFile(installerState+"/log", 1<<20)
	if err != nil {
		return n
	}
	lines := strings.Split(string(text), "\n")
	for i := 2; i+1 < len(lines); i++ {
		kind, name, ok := strings.Cut(lines[i], ": /")
		number, err := strconv.Atoi(kind)
		if !ok || err != nil {
			continue
		}
		name = "/" + name
		switch i++; number {
		case 0:
			n.links = append(n.links, record.File{Path: name, Link: lines[i]})
		case 1:
			n.files = append(n.files, name)
		case 2:
			n.moved = append(n.moved, name)
			i++
		default:
			n.moved = append(n.moved, name)
		}
	}
	return n
}

// sayMoved says which files of others the installer has taken away.
func sayMoved(c *lxc.Container, log say.Log) {
	moved := readNoted(c).moved
	if len(moved) == 0 {
		return
	}
	log.Warnf("the installer has moved %s that stood in its way to %s, such as %s; removing the driver moves them back",
		say.Count(len(moved), "file"), installerState, say.Clean(moved[0], 300))
}

// dangling lists links of the driver that lead nowhere, by the record and by the
// installer's notes. Its uninstaller takes such links for missing and leaves them,
// through all later versions.
func dangling(c *lxc.Container, in *record.Installed) []string {
	links := readNoted(c).links
	if in != nil {
		links = append(links, in.Files...)
	}
	var found []string
	for _, l := range links {
		if l.Link == "" || !ours(l.Path) && l.Path != abiLink {
			continue
		}
		if target, err := c.Readlink(l.Path); err != nil || target != l.Link {
			continue
		}
		if missing(c, l.Path) {
			found = append(found, l.Path)
		}
	}
	return found
}
