package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// Options say how enable and disable work.
type Options struct {
	Root    string                           // the folder that stands for /, below which etc/pve and the snippets are; "" is /
	State   string                           // the state folder, such as /var/lib/pve-nvidia-hook
	Storage string                           // storage for the snippet; "": the one that is set already, else local
	GPUs    string                           // which cards, as SelectDevices takes it; "" is all
	DRI     *bool                            // the nodes in /dev/dri of the cards too; nil: as before
	Docker  *bool                            // NVIDIA's Container Toolkit in it, for Docker and podman; nil: as before
	Chain   bool                             // keep another hookscript and run it after this program's work
	Share   bool                             // the caller says how the shared driver comes into them
	DryRun  bool                             // say what would be changed and change nothing
	Present []Device                         // the host's NVIDIA device nodes
	Cards   []host.GPU                       // the cards that the kernel module drives; none: not known
	Groups  func(vmid int) map[string]string // names of a running container's groups by their ids; nil: not known
	Runs    func(vmid int) bool              // whether a container runs; nil: not known
	Pct     string                           // "": pct, looked up in PATH
	Chains  map[int]string                   // by VMID, the hookscript that the configuration has run after this program's
}

// job is one container with what is to be done to it.
type job struct {
	guest Guest
	state State
	plan  Plan
}

// Check says why Enable would refuse the containers, their hookscripts, the
// storage or the choice of GPUs. It changes nothing, and needs no device nodes.
func Check(o Options, vmids []int) error {
	if err := CheckGPUs(o.GPUs); err != nil {
		return err
	}
	if len(o.Cards) > 0 {
		if _, _, err := pick(o.Cards, o.GPUs); err != nil {
			return err
		}
	}
	if err := o.able(); err != nil {
		return err
	}
	guests, err := o.find(vmids)
	if err != nil {
		return err
	}
	storages, err := ReadStorages(o.Root)
	if err != nil {
		return err
	}
	o.DryRun = true
	var errs []error
	for _, g := range guests {
		p, err := o.plan(storages, g, State{}, Want{Volume: o.volume(), Chain: o.Chain})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := o.placeSnippet(storages, p.State.Hookscript, io.Discard); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// plan decides what enable changes of a container. A script that Proxmox would
// not run is not chained: the container would not start.
func (o Options) plan(storages Storages, g Guest, state State, want Want) (Plan, error) {
	p, err := PlanEnable(g.Conf, state, want)
	if err != nil {
		return p, err
	}
	chain := ChainOf(p.State.Hookscript)
	if chain != "" && !Ours(g.Conf.Next().Hookscript) && !o.exists(storages, chain) {
		return p, hint.Errorf(fmt.Sprintf("put the file back, or take the line out by pct set %d --delete hookscript", g.VMID),
			"container %s does not start as it is: its hookscript %s does not exist or is not executable", g, chain)
	}
	return p, nil
}

// withDRI adds the nodes in /dev/dri of the chosen cards, for EGL, Vulkan and VAAPI,
// with the group that the container has for them. What that is only a running
// container tells: in another they are for everybody.
func (o Options) withDRI(w Want, j job) Want {
	w.DRI = j.state.Hookscript == j.guest.Conf.Next().Hookscript && j.state.DRI
	if o.DRI != nil {
		w.DRI = *o.DRI
	}
	if !w.DRI {
		return w
	}
	var groups map[string]string
	if o.Groups != nil {
		groups = o.Groups(j.guest.VMID)
	}
	w.Devices = slices.Clone(w.Devices)
	for _, g := range w.Cards {
		for _, path := range g.DRI(o.Root) {
			name, gid := "video", ""
			if strings.HasPrefix(path, "/dev/dri/renderD") {
				name = "render"
			}
			for id, group := range groups {
				if group == name {
					gid = id
				}
			}
			w.Devices = append(w.Devices, Device{Path: path, GID: gid})
		}
	}
	return w
}

// volume is the hookscript on the storage that was named, or "".
func (o Options) volume() string {
	if o.Storage == "" {
		return ""
	}
	return o.Storage + ":snippets/" + snippet.Name
}

// Enable makes containers of this node use the hook: it puts the snippet in
// its place, sets the hookscript and adds the device entries, and says on out
// what it does. All containers are looked at before the first is changed;
// doing it again changes nothing.
func Enable(ctx context.Context, o Options, vmids []int, out io.Writer) error {
	out = say.Lines(out) // names and paths of a guest's file go to a terminal
	done, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	guests, err := o.find(vmids)
	if err != nil {
		return err
	}
	choice, err := SelectDevices(o.Present, o.Cards, o.GPUs)
	if err != nil {
		return err
	}
	storages, err := ReadStorages(o.Root)
	if err != nil {
		return err
	}
	if !o.DryRun {
		if err := o.forget(out); err != nil {
			return err
		}
	}
	want := Want{Volume: o.volume(), Choice: choice, None: choice.Asked == "none", Docker: o.Docker, Chain: o.Chain}
	var jobs []job
	volumes := map[string]bool{}
	for _, g := range guests {
		j := job{guest: g}
		if j.state, err = ReadState(o.State, g.VMID); err != nil {
			return err
		}
		want := o.withDRI(want, j)
		if j.plan, err = o.plan(storages, g, j.state, want); err != nil {
			return err
		}
		jobs = append(jobs, j)
		volumes[j.plan.State.Hookscript] = true
	}
	for _, volume := range slices.Sorted(maps.Keys(volumes)) {
		if err := o.placeSnippet(storages, volume, out); err != nil {
			return err
		}
	}
	if done, err := o.apply(ctx, jobs, out); err != nil {
		o.sayNext(done, out)
		return err
	}
	o.sayChoice(choice, jobs, out)
	for _, volume := range slices.Sorted(maps.Keys(volumes)) {
		o.sayLate(storages, volume, out)
	}
	o.sayCluster(storages, slices.Sorted(maps.Keys(volumes)), len(choice.Devices) > 0, out)
	o.sayNext(jobs, out)
	return nil
}

// Disable undoes what Enable did to containers of this node and says on out
// what it does. A container that is gone is only forgotten.
func Disable(ctx context.Context, o Options, vmids []int, out io.Writer) error {
	out = say.Lines(out)
	done, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	var there []int
	for _, vmid := range vmids {
		_, found, err := Find(o.Root, vmid)
		if err != nil {
			return err
		}
		if _, err := os.Stat(stateFile(o.State, vmid)); found || err != nil {
			there = append(there, vmid)
			continue
		}
		fmt.Fprintf(out, "container %d: it does not exist any more, so its record of enable was removed\n", vmid)
		if !o.DryRun {
			if err := (State{}).write(o.State, vmid); err != nil {
				return err
			}
		}
	}
	guests, err := o.find(there)
	if err != nil {
		return err
	}
	storages, err := ReadStorages(o.Root)
	if err != nil {
		return err
	}
	var jobs []job
	for _, g := range guests {
		j := job{guest: g}
		if j.state, err = ReadState(o.State, g.VMID); err != nil {
			return err
		}
		chain := ChainOf(g.Conf.Next().Hookscript)
		if chain == "" && j.state.Hookscript == "" { // moved here, as its configuration may tell
			chain = o.Chains[g.VMID]
		}
		lost := chain != "" && !o.exists(storages, chain)
		if lost {
			j.plan = PlanDisable(g.Conf, j.state, "")
			j.plan.warn("the hookscript that was there before, %s, does not exist any more and is not set again", chain)
		} else {
			j.plan = PlanDisable(g.Conf, j.state, chain)
		}
		jobs = append(jobs, j)
	}
	_, err = o.apply(ctx, jobs, out)
	return err
}
