package pve

import (
	"errors"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// Standing is how a container of this node stands to this program.
type Standing int

// The standings. Of one that this program never had to do with there is none.
const (
	_ Standing = iota
	// Past is a container that runs are kept of and that nothing wants the
	// driver in any more, as after disable.
	Past
	// Lost is one in which enable has set the hookscript, which another command
	// than disable has taken away.
	Lost
	// Follows is one that is kept in line: the hook is called at its start, or a
	// configuration names it as one that gets the driver. Without Proxmox VE
	// nobody sets hookscripts: there all of LXC's do.
	Follows
)

// Standings tells the standings of this node's containers. guests are those of
// the cluster, as Guests lists them; one of another node, or a VM, is left out.
// Where the hookscript cannot be seen, what enable has set and what was worked
// on follows: nothing says that it does not.
func Standings(root string, guests []Guest, conf *config.Config) map[int]Standing {
	found := map[int]Standing{}
	raise := func(id int, to Standing) { found[id] = max(found[id], to) }
	s, _ := conf.For(0) // where files lie holds, whatever else is wrong
	node, local := CheckNode(root), LocalNode(root)
	here, elsewhere := map[int]error{}, map[int]bool{}
	for _, g := range guests {
		if g.VM || g.Node != local {
			elsewhere[g.VMID] = true
			continue
		}
		here[g.VMID] = g.Err
		if Ours(g.Conf.Next().Hookscript) {
			raise(g.VMID, Follows)
		}
	}
	for _, id := range conf.Containers() {
		// One with mistakes is looked at as well, so that they are seen.
		if s, err := conf.For(id); s.Wanted || err != nil {
			raise(id, Follows)
		}
	}
	if errors.Is(node, ErrNoNode) {
		for _, id := range numbered(s.Paths.LXC, "") {
			raise(id, Follows)
		}
		return found
	}
	kept := func(id int, as Standing) {
		// Of a container that was destroyed the runs are kept, which is no
		// reason to name it for ever.
		unread, there := here[id]
		switch {
		case node != nil, unread != nil:
			raise(id, Follows)
		case there:
			raise(id, as)
		}
	}
	for _, id := range numbered(filepath.Join(s.Paths.State, "runs"), "") {
		kept(id, Past)
	}
	for _, id := range numbered(filepath.Join(s.Paths.State, "enabled"), ".json") {
		if set, err := ReadState(s.Paths.State, id); set.Hookscript != "" || err != nil {
			kept(id, Lost)
		}
	}
	for id := range elsewhere {
		delete(found, id)
	}
	return found
}

// numbered lists the VMIDs in a folder, none where there is no such folder.
func numbered(dir, suffix string) []int {
	ids, _ := vmid.In(dir, suffix)
	return ids
}
