package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// glanceLimit is for one look at a container. One that mounts a file system of
// its own can keep a look waiting for ever.
const glanceLimit = 5 * time.Second

// containers knows which containers this node has and what they are called.
type containers struct {
	conf  *config.Config
	paths struct{ state, lxc string }
	names map[int]string // of the guests of this node
	node  bool           // this is a Proxmox VE node: names holds all containers there are
	ours  []int          // those that this program has to do with, sorted
}

// containers finds the containers of this node that this program has to do
// with: those whose hookscript it is, those that a configuration wants the driver
// in, those that it worked on before.
func (a *app) containers(conf *config.Config) (*containers, error) {
	// What is wrong with the settings of no container in particular is said in
	// the row of each; where the files lie holds in any case.
	s, _ := conf.For(0)
	c := &containers{conf: conf, names: map[int]string{}}
	c.paths.state, c.paths.lxc = s.Paths.State, s.Paths.LXC
	found := map[int]bool{}
	elsewhere := map[int]bool{}
	guests, err := pve.Guests(a.host.Root)
	c.node = err == nil
	local := pve.LocalNode(a.host.Root)
	mine := map[int]bool{}
	for _, u := range pve.Uses(guests) {
		mine[u.VMID] = mine[u.VMID] || !strings.HasPrefix(u.Where, "snapshot")
	}
	for _, g := range guests {
		if g.VM || g.Node != local {
			elsewhere[g.VMID] = true
			continue
		}
		c.names[g.VMID] = g.Conf.Hostname
		if mine[g.VMID] || pve.Ours(pve.ChainOf(c.paths.state, g.VMID)) {
			found[g.VMID] = true
		}
	}
	for _, vmid := range conf.Containers() {
		if s, err := conf.For(vmid); s.Wanted || err != nil {
			found[vmid] = true
		}
	}
	for _, vmid := range append(numbered(filepath.Join(c.paths.state, "runs")), numbered(filepath.Join(c.paths.state, "enabled"))...) {
		// Of a container that was destroyed the runs are kept, which is no
		// reason to name it for ever.
		_, here := c.names[vmid]
		if !c.node || here {
			found[vmid] = true
		}
	}
	if c.paths.lxc != "/var/lib/lxc" {
		for _, vmid := range numbered(c.paths.lxc) {
			found[vmid] = true
		}
	}
	for vmid := range elsewhere {
		delete(found, vmid)
	}
	c.ours = slices.Sorted(maps.Keys(found))
	return c, nil
}

// there reports whether the node has the container.
func (c *containers) there(vmid int) bool {
	if _, ok := c.names[vmid]; ok {
		return true
	}
	_, err := os.Stat(filepath.Join(c.paths.lxc, fmt.Sprint(vmid)))
	return err == nil
}

// name is what the container is called, "" when nobody says.
func (c *containers) name(vmid int, s config.Settings) string {
	if n := c.names[vmid]; n != "" {
		return n
	}
	return s.Name
}

// numbered lists the VMIDs that files or folders of dir are named by.
func numbered(dir string) []int {
	entries, _ := os.ReadDir(dir)
	var ids []int
	for _, e := range entries {
		if id, err := vmid.Parse(strings.TrimSuffix(e.Name(), ".json")); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// state is one container as it was found.
type state struct {
	vmid int
	hook.State
	err error
}

// glance looks at containers, several at once, each under a deadline.
func (a *app) glance(ctx context.Context, conf *config.Config, ids []int) []state {
	states := make([]state, len(ids))
	each(len(ids), 2*runtime.NumCPU(), func(i int) {
		states[i] = a.glanceOne(ctx, conf, ids[i])
	})
	return states
}

func (a *app) glanceOne(ctx context.Context, conf *config.Config, vmid int) state {
	ctx, cancel := context.WithTimeout(ctx, glanceLimit)
	defer cancel()
	done := make(chan state, 1)
	go func() {
		s, err := hook.Glance(ctx, vmid, hook.Options{Config: conf, Host: a.host})
		done <- state{vmid, s, err}
	}()
	select {
	case s := <-done:
		return s
	case <-ctx.Done():
		// The container holds the look in the kernel; it ends with this process.
		s, _ := conf.For(vmid)
		return state{vmid, hook.State{Settings: s, Running: true},
			errors.New("the container's files do not answer")}
	}
}

// each calls f for 0 to n-1, at most jobs at once.
func each(n, jobs int, f func(i int)) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, max(1, jobs))
	for i := range n {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			f(i)
		})
	}
	wg.Wait()
}

// follows reports whether this program is called at a container's start, as far
// as can be told: on a machine without Proxmox VE it may be.
func (a *app) follows(vmid int, state string) bool {
	g, ok, err := pve.Find(a.host.Root, vmid)
	if err != nil || !ok {
		return true
	}
	for _, u := range pve.Uses([]pve.Guest{g}) {
		if !strings.HasPrefix(u.Where, "snapshot") {
			return true
		}
	}
	return pve.Ours(pve.ChainOf(state, vmid))
}
