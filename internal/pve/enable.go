package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// Options say how enable and disable work.
type Options struct {
	Root    string   // the folder that stands for /, below which etc/pve and the snippets are; "" is /
	State   string   // the state folder, such as /var/lib/pve-nvidia-hook
	Storage string   // storage for the snippet; "": the one that is set already, else local
	GPUs    string   // all, none or numbers such as "0,1"; "" is all
	Chain   bool     // keep another hookscript and run it after this program's work
	DryRun  bool     // say what would be changed and change nothing
	Present []Device // the host's NVIDIA device nodes
	Pct     string   // "": pct, looked up in PATH
}

// job is one container with what is to be done to it.
type job struct {
	guest Guest
	state State
	plan  Plan
}

// Enable makes containers of this node use the hook: it puts the snippet in
// its place, sets the hookscript and adds the device entries, and says on out
// what it does. All containers are looked at before the first is changed;
// doing it again changes nothing. Each container is changed by one call of pct.
func Enable(ctx context.Context, o Options, vmids []int, out io.Writer) error {
	done, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	guests, err := o.find(vmids)
	if err != nil {
		return err
	}
	devices, missing, err := SelectDevices(o.Present, o.GPUs)
	if err != nil {
		return err
	}
	storages, err := ReadStorages(o.Root)
	if err != nil {
		return err
	}
	want := Want{Devices: devices, Chain: o.Chain}
	if o.Storage != "" {
		want.Volume = o.Storage + ":snippets/" + snippet.Name
	}
	var jobs []job
	volumes := map[string]bool{}
	for _, g := range guests {
		j := job{guest: g}
		if j.state, err = ReadState(o.State, g.VMID); err != nil {
			return err
		}
		if j.plan, err = PlanEnable(g.Conf, j.state, want); err != nil {
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
	if err := o.apply(ctx, jobs, out); err != nil {
		return err
	}
	if len(missing) > 0 {
		fmt.Fprintf(out, "warning: not on this host: %s; CUDA needs it: run pve-nvidia-hook devices, then enable again\n", list(missing))
	}
	for _, volume := range slices.Sorted(maps.Keys(volumes)) {
		o.sayCluster(storages, volume, len(devices) > 0, out)
	}
	return nil
}

// Disable undoes what Enable did to containers of this node and says on out
// what it does. A container that is gone is only forgotten.
func Disable(ctx context.Context, o Options, vmids []int, out io.Writer) error {
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
		fmt.Fprintf(out, "container %d: it is gone, forget what enable has set\n", vmid)
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
		lost := ""
		if j.state.Chain != "" && !o.exists(storages, j.state.Chain) {
			lost, j.state.Chain = j.state.Chain, ""
		}
		j.plan = PlanDisable(g.Conf, j.state)
		if lost != "" {
			j.plan.warn("the hookscript that was there before, %s, does not exist any more and is not set again", lost)
		}
		jobs = append(jobs, j)
	}
	return o.apply(ctx, jobs, out)
}

// begin checks that this can work here, and keeps other runs away until done is called.
func (o Options) begin(ctx context.Context) (done func(), err error) {
	if err := checkNode(o.Root); err != nil {
		return nil, err
	}
	if o.DryRun {
		return func() {}, nil
	}
	if os.Geteuid() != 0 {
		return nil, hint.Errorf("only root@pam may set hookscripts and devices: run it as root on the node", "set a hookscript: not root")
	}
	dir := filepath.Join(o.State, "enabled")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	l, err := lock.Take(ctx, filepath.Join(dir, "lock"), lock.Options{Timeout: 2 * time.Minute, Holder: "enable or disable"})
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Release() }, nil
}

// find returns the containers of those IDs, or says of each that it is none of this node's containers.
func (o Options) find(vmids []int) ([]Guest, error) {
	local := LocalNode(o.Root)
	var guests []Guest
	var errs []error
	for _, vmid := range slices.Compact(slices.Sorted(slices.Values(vmids))) {
		g, found, err := Find(o.Root, vmid)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !found:
			errs = append(errs, hint.Errorf(o.known(local), "there is no container %d", vmid))
		case g.VM:
			errs = append(errs, hint.Errorf("a VM gets a whole GPU by PCI passthrough; this program is for containers", "%s is a virtual machine, not a container", g))
		case g.Node != local:
			errs = append(errs, hint.Errorf("run it on "+g.Node, "container %s is on node %s, this is %s", g, g.Node, local))
		case g.Err != nil:
			errs = append(errs, g.Err)
		default:
			guests = append(guests, g)
		}
	}
	return guests, errors.Join(errs...)
}

// known lists this node's containers for a hint.
func (o Options) known(local string) string {
	all, _ := Guests(o.Root)
	var names []string
	for _, g := range all {
		if g.Node == local && !g.VM {
			names = append(names, g.String())
		}
	}
	if len(names) == 0 {
		return "this node has no containers"
	}
	if more := len(names) - 10; more > 0 {
		names = append(names[:10], strconv.Itoa(more)+" more")
	}
	return "the containers of this node are " + list(names)
}

// exists reports whether Proxmox would take a hookscript volume.
func (o Options) exists(storages Storages, volume string) bool {
	file, err := storages.Path(volume)
	if err != nil {
		return false
	}
	fi, err := os.Stat(at(o.Root, file))
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// placeSnippet makes sure of the file behind a volume, without which the container would not start.
func (o Options) placeSnippet(storages Storages, volume string, out io.Writer) error {
	file, err := storages.Path(volume)
	if err != nil {
		return err
	}
	id, _, _ := strings.Cut(volume, ":")
	if err := storages[id].ready(o.Root); err != nil {
		return err
	}
	if nodes := storages[id].Nodes; len(nodes) > 0 && !slices.Contains(nodes, LocalNode(o.Root)) {
		return hint.Errorf("name a storage of this node", "storage %s is only on %s", id, list(nodes))
	}
	stands, err := SnippetStands(at(o.Root, file))
	if err != nil || stands {
		return err
	}
	fmt.Fprintf(out, "write %s\n", file)
	if o.DryRun {
		return nil
	}
	return EnsureSnippet(at(o.Root, file))
}

// apply says and does the plans, one container after the other; one that fails does not stop the next.
func (o Options) apply(ctx context.Context, jobs []job, out io.Writer) error {
	var errs []error
	for _, j := range jobs {
		for _, line := range j.plan.Lines {
			fmt.Fprintf(out, "container %s: %s\n", j.guest, line)
		}
		for _, line := range j.plan.Warnings {
			fmt.Fprintf(out, "container %s: warning: %s\n", j.guest, line)
		}
		if j.plan.Empty() {
			fmt.Fprintf(out, "container %s: nothing to change\n", j.guest)
		}
		if o.DryRun {
			if !j.plan.Empty() {
				fmt.Fprintf(out, "container %s: would run: pct %s\n", j.guest, strings.Join(j.plan.Args(), " "))
			}
			continue
		}
		if err := o.change(ctx, j, out); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", j.guest, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// change runs pct for one container. What it is about to set is written down
// before, so that nothing is ever set that nobody remembers; what came of it is
// written down afterwards, from the configuration as it then stands.
func (o Options) change(ctx context.Context, j job, out io.Writer) error {
	if j.plan.Empty() {
		return j.plan.State.write(o.State, j.guest.VMID)
	}
	intent := State{Hookscript: j.plan.State.Hookscript, Chain: j.plan.State.Chain, Dev: maps.Clone(j.state.Dev)}
	if intent.Hookscript == "" { // disable: the chained one is still needed while the hook stands
		intent.Hookscript, intent.Chain = j.state.Hookscript, j.state.Chain
	}
	for n, value := range j.plan.State.Dev {
		put(&intent.Dev, n, value)
	}
	if err := intent.write(o.State, j.guest.VMID); err != nil {
		return err
	}
	pct := o.Pct
	if pct == "" {
		pct = "pct"
	}
	failed := runPct(ctx, pct, j.plan.Args())
	now, found, err := Find(o.Root, j.guest.VMID)
	if err != nil || !found || now.Err != nil {
		return errors.Join(failed, err, now.Err)
	}
	if err := settle(intent, j.state, now.Conf).write(o.State, j.guest.VMID); err != nil {
		return errors.Join(failed, err)
	}
	if failed == nil && now.Conf.Waits() {
		fmt.Fprintf(out, "container %s: part of it waits for its next start\n", j.guest)
	}
	return failed
}

// settle is what of the intent stands in the configuration after pct has run, or has failed.
func settle(intent, before State, now Conf) State {
	next := now.Next()
	s := State{Dev: map[int]string{}}
	for n, value := range intent.Dev {
		if next.Dev[n] == value {
			s.Dev[n] = value
		}
	}
	if Ours(next.Hookscript) {
		s.Hookscript, s.Chain = next.Hookscript, intent.Chain
		if intent.Chain == "" {
			s.Chain = before.Chain
		}
	}
	return s
}

// sayCluster says what the other nodes of the cluster need.
func (o Options) sayCluster(storages Storages, volume string, devices bool, out io.Writer) {
	nodes, err := Nodes(o.Root)
	local := LocalNode(o.Root)
	nodes = slices.DeleteFunc(nodes, func(n string) bool { return n == local })
	if err != nil || len(nodes) == 0 {
		return
	}
	id, _, _ := strings.Cut(volume, ":")
	s := storages[id]
	without := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool {
		return s.Shared && (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n))
	})
	if len(without) > 0 {
		fmt.Fprintf(out, "note: a container that migrates to %s does not start there without the file of %s: install pve-nvidia-hook there too, or put it on a shared storage by enable --storage NAME\n", list(without), volume)
	}
	if devices {
		fmt.Fprintf(out, "note: with its device entries a container starts only on nodes that have those devices\n")
	}
}
