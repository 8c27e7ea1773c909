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
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// glanceLimit is for one look at a container. One that mounts a file system of
// its own can keep a look waiting for ever.
const glanceLimit = 5 * time.Second

// containers knows which containers this node has, what they are called, and
// which of them this program has to do with.
type containers struct {
	lxc      string         // LXC's folder of containers
	names    map[int]string // of the guests of this node
	others   map[int]error  // where the other guests of the cluster are
	standing map[int]pve.Standing
}

func (a *app) containers(conf *config.Config) *containers {
	// Mistakes in the settings are told in the row of each container. The folders are
	// known in any case.
	s, _ := conf.For(0)
	guests, _ := pve.Guests(a.host.Root) // without Proxmox VE there are none
	c := &containers{s.Paths.LXC, map[int]string{}, map[int]error{}, pve.Standings(a.host.Root, guests, conf)}
	local := pve.LocalNode(a.host.Root)
	for _, g := range guests {
		if away := g.NotHere(local); away != nil {
			c.others[g.VMID] = away
		} else {
			c.names[g.VMID] = g.Conf.Hostname
		}
	}
	return c
}

// known lists the containers that this program has to do with.
func (c *containers) known() []int { return slices.Sorted(maps.Keys(c.standing)) }

// followed lists those that are kept in line.
func (c *containers) followed() []int {
	return slices.DeleteFunc(c.known(), func(id int) bool { return c.standing[id] != pve.Follows })
}

// there reports whether this node has the container.
func (c *containers) there(vmid int) bool {
	if _, ok := c.names[vmid]; ok {
		return true
	}
	_, err := os.Stat(filepath.Join(c.lxc, fmt.Sprint(vmid)))
	return err == nil
}

// missing is the error that this node does not have the container, and which node
// has; nil when this one has it. It names the VMID, as it may be about one of many.
func (c *containers) missing(vmid int) error {
	switch away := c.others[vmid]; {
	case c.there(vmid):
		return nil
	case away != nil:
		return away
	}
	return hint.Errorf(pve.WhichHere, "there is no container %d on this node", vmid)
}

// name is what the container is called, "" when nobody says.
func (c *containers) name(vmid int, s config.Settings) string {
	if n := c.names[vmid]; n != "" {
		return n
	}
	return s.Name
}

// runs tells whether a container runs.
func runs(ctx context.Context, path string, vmid int) bool {
	ctx, cancel := context.WithTimeout(ctx, glanceLimit)
	defer cancel()
	c, err := lxc.Open(ctx, path, vmid)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
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
