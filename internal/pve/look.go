package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// able checks that this can work here.
func (o Options) able() error {
	if err := CheckNode(o.Root); err != nil || o.DryRun {
		return err
	}
	if os.Geteuid() != 0 {
		return hint.Errorf("only root@pam may set hookscripts and devices: run it as root on the node", "set a hookscript: not root")
	}
	if _, err := exec.LookPath(o.pct()); err != nil {
		return errNoPct
	}
	return nil
}

// begin checks that this can work here, and keeps other runs away until done is called.
func (o Options) begin(ctx context.Context) (done func(), err error) {
	if err := o.able(); err != nil {
		return nil, err
	}
	if o.DryRun {
		return func() {}, nil
	}
	dir, err := record.Below(o.State, "enabled")
	if err != nil {
		return nil, err
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
		case g.NotHere(local) != nil:
			errs = append(errs, g.NotHere(local))
		case g.Err != nil:
			errs = append(errs, g.Err)
		default:
			guests = append(guests, g)
		}
	}
	return guests, errors.Join(errs...)
}

// forget drops the records of containers that the cluster has no more, since a
// new one may get the number and must not inherit what was chained.
func (o Options) forget(out io.Writer) error {
	files, _ := filepath.Glob(filepath.Join(o.State, "enabled", "*.json"))
	for _, file := range files {
		vmid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			continue
		}
		gone := true
		for range 2 { // one that migrates while the nodes' folders are read is in none of them
			_, found, err := Find(o.Root, vmid)
			gone = gone && !found && err == nil
		}
		if !gone {
			continue
		}
		fmt.Fprintf(out, "container %d: it does not exist any more, so its record of enable was removed\n", vmid)
		if err := (State{}).write(o.State, vmid); err != nil {
			return err
		}
	}
	return nil
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
	if NoExec(at(o.Root, file)) {
		return hint.Errorf("mount it without noexec, or name another storage by --storage", "no program can be run from %s: its file system is mounted noexec", filepath.Dir(file))
	}
	stands, err := SnippetStands(at(o.Root, file))
	if err != nil || stands {
		return err
	}
	if o.DryRun {
		fmt.Fprintf(out, "would write %s\n", file)
		return nil
	}
	if err := EnsureSnippet(at(o.Root, file)); err != nil {
		return err
	}
	fmt.Fprintf(out, "wrote %s\n", file)
	return nil
}

// PlaceSnippets puts this program's file where a guest of the cluster names one
// that chains another script which this node has: enable puts it on its own node
// alone. What cannot be put there is said.
func PlaceSnippets(root string, out io.Writer) {
	o := Options{Root: root}
	guests, err := Guests(root)
	if err != nil {
		return // no node of Proxmox VE, or one whose own tools will complain
	}
	storages, err := ReadStorages(root)
	if err != nil {
		return
	}
	volumes := map[string]bool{}
	for _, g := range guests {
		for _, volume := range g.Conf.Hookscripts() {
			volumes[volume] = ChainOf(volume) != ""
		}
	}
	out = say.Lines(out)
	for _, volume := range sortedKeys(volumes) {
		if !volumes[volume] || !o.exists(storages, ChainOf(volume)) {
			continue
		}
		if err := o.placeSnippet(storages, volume, out); err != nil {
			fmt.Fprintf(out, "warning: %s: %v\n", volume, err)
		}
	}
}

// sayChoice tells which cards containers have now.
func (o Options) sayChoice(c Choice, jobs []job, out io.Writer) {
	for _, g := range c.Cards {
		if g.Model != "" || g.UUID != "" {
			fmt.Fprintf(out, "GPU: %s\n", g)
		}
	}
	var dri []string
	for _, j := range jobs {
		for _, value := range j.plan.State.Dev {
			if strings.HasPrefix(value, "/dev/dri/") {
				dri = append(dri, value)
			}
		}
	}
	if len(dri) == 0 && o.DRI != nil && *o.DRI {
		fmt.Fprintf(out, "warning: --dri changes nothing: this host has no nodes in /dev/dri of these GPUs\n")
	}
	if slices.ContainsFunc(dri, func(value string) bool { return !strings.Contains(value, "gid=") }) {
		fmt.Fprintf(out, "note: where a container does not run now, or has no group render or video, all its users may open the nodes in /dev/dri; enable it again while it runs to limit them to that group\n")
	}
	if c.MIG {
		fmt.Fprintf(out, "note: MIG instances do not survive a reboot of the node: make the same ones again before the container starts, by nvidia-smi mig; without them it starts, and has no GPU\n")
	}
	if len(c.Missing) > 0 {
		fmt.Fprintf(out, "warning: this host lacks %s, which CUDA needs: run pve-nvidia-hook devices, then enable again\n", list(c.Missing))
	}
}

// sayNext tells what to do next, of containers that were changed. Where a part of the
// change waits, the restart that it waits for has been named.
func (o Options) sayNext(jobs []job, out io.Writer) {
	var ids []int
	for _, j := range jobs {
		if c, err := ReadConf(o.Root, j.guest.VMID); !j.plan.Empty() && (err != nil || !c.Waits() && !c.Template) {
			ids = append(ids, j.guest.VMID)
		}
	}
	if len(ids) > 0 && !o.DryRun && !o.Share {
		fmt.Fprintln(out, Next(ids, o.Runs))
	}
}

// Next is what to do after containers have been enabled, in a line of its own:
// apply for those that run, and the start of the others.
func Next(vmids []int, runs func(vmid int) bool) string {
	running, commands := "", []string{}
	for _, id := range vmids {
		if runs != nil && runs(id) {
			running += " " + strconv.Itoa(id)
		} else {
			commands = append(commands, "pct start "+strconv.Itoa(id))
		}
	}
	if running != "" {
		commands = append([]string{"pve-nvidia-hook apply" + running}, commands...)
	}
	return NextPrefix + strings.Join(commands, "; ")
}

// NextPrefix begins what Next returns.
const NextPrefix = "next: "

// sayLate warns of a storage that may not be mounted when guests start at boot.
func (o Options) sayLate(storages Storages, volume string, out io.Writer) {
	id, _, _ := strings.Cut(volume, ":")
	if s := storages[id]; s.Late(o.Root) {
		fmt.Fprintf(out, "warning: Proxmox VE does not mount storage %s for a hookscript: after a boot of the node a container may fail to start with \"script '%s' does not exist\"; better install pve-nvidia-hook on every node and use --storage local, or add %s to /etc/fstab\n", id, volume, s.Path)
	}
}

// sayCluster says what the other nodes of the cluster need.
func (o Options) sayCluster(storages Storages, volumes []string, devices bool, out io.Writer) {
	nodes, err := Nodes(o.Root)
	local := LocalNode(o.Root)
	nodes = slices.DeleteFunc(nodes, func(n string) bool { return n == local })
	if err != nil || len(nodes) == 0 {
		return
	}
	for _, volume := range volumes {
		id, _, _ := strings.Cut(volume, ":")
		s := storages[id]
		without := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool {
			return s.Shared && (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n))
		})
		if len(without) > 0 {
			what := "install pve-nvidia-hook there too, or put it on a storage that all nodes have mounted, by enable --storage NAME"
			if chain := ChainOf(volume); chain != "" {
				what = "have " + chain + " there too, and run there: pve-nvidia-hook devices"
			}
			fmt.Fprintf(out, "note: a container that migrates to %s does not start there without the file of %s: %s\n", list(without), volume, what)
		}
	}
	if devices {
		fmt.Fprintf(out, "note: with its device entries a container starts only on nodes that have those devices\n")
	}
}
