package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/after"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) enable() *cobra.Command {
	var o pve.Options
	all, dri, docker, share := false, false, false, false
	c := &cobra.Command{
		Use:   "enable VMID... | --all",
		Short: "make containers follow the host's driver",
		Long: `Set the hookscript of containers to pve-nvidia-hook, and give them the host's
NVIDIA devices by devN entries: nvidiactl, the chosen GPUs, nvidia-uvm,
nvidia-uvm-tools and nvidia-modeset. The driver is installed at the container's
next start, or now by pve-nvidia-hook apply VMID.
Proxmox VE 8 gives a running container its new devices only at the next start:
then enable says so, and pct reboot VMID completes it.

Once the driver is installed, apt, dnf and zypper in the container refuse driver
packages of the distribution; uninstall undoes that.

What was set by hand is kept. Doing it again changes nothing, other --gpus
change the entries that enable has made, and disable takes away exactly these.
Missing device nodes of the host are made first.

With --share nothing is installed: a line in the container's configuration
mounts the driver that the node shares, read-only and before its init starts. It
takes no room, and after an upgrade of the host's driver the restart is all. An
installed driver is removed once the shared one works. The shared driver is that
of the host's kernel module, with all parts but display; driver.capabilities is
for an installation.

GPUs are chosen by number as nvidia-smi counts, UUID or its beginning, PCI
address or model; pve-nvidia-hook devices --list shows them. Without --gpus the
choice is that of the configuration, else the one made before, else all. It is
remembered by UUID: when the host's cards get other numbers, enable --all gives
each container its own cards again. 0:1 is MIG instance 1 of GPU 0; after a
reboot of the node it is gone, and the container starts without it.

--docker is remembered too, until --docker=false or disable. A configuration
file overrides it. On another node give it again.`,
		Example: `  pve-nvidia-hook enable 101                    all GPUs, or as configured
  pve-nvidia-hook enable 101 102 --gpus 0,1     the first two GPUs
  pve-nvidia-hook enable 101 --gpus GPU-5c4f    that card, in any slot
  pve-nvidia-hook enable 101 --docker           for Docker in it too
  pve-nvidia-hook enable --all                  all again, for other cards
  pve-nvidia-hook enable 101 --share            share, install nothing
  pve-nvidia-hook enable 101 --chain            run another one afterwards
  pve-nvidia-hook enable 101 --storage shared   on storage of all nodes
  pve-nvidia-hook enable 101 --dry-run          say what would be changed`,
		Args: args(0, -1, "VMIDs, or --all"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			if all == (len(ids) > 0) {
				return errNamesOrAll
			}
			if all {
				if ids, err = enabledHere(a.host.Root); err != nil {
					return err
				}
			}
			if len(ids) == 0 {
				a.log.Info("no container of this node is enabled, there is nothing to do")
				return nil
			}
			if c.Flags().Changed("dri") {
				o.DRI = &dri
			}
			if c.Flags().Changed("docker") {
				o.Docker = &docker
			}
			var want *bool
			if c.Flags().Changed("share") {
				want = &share
			}
			return a.enableAll(c.Context(), o, want, ids, c.OutOrStdout())
		},
	}
	wordFlag(c.Flags(), &o.GPUs, "gpus", checkGPUs, "`which` GPUs: all, none, or a list of numbers, UUIDs, PCI addresses or models (default: as configured, else as before, else all)")
	c.Flags().BoolVar(&all, "all", false, "all containers of this node that are enabled")
	c.Flags().BoolVar(&dri, "dri", false, "the nodes in /dev/dri of the GPUs too, for EGL, Vulkan and VAAPI (--dri=false removes them)")
	c.Flags().BoolVar(&docker, "docker", false, "NVIDIA's Container Toolkit too, for Docker and podman in the container (--docker=false undoes it)")
	c.Flags().BoolVar(&share, "share", false, "share the node's driver with the container instead of installing it (--share=false installs it again)")
	c.Flags().BoolVar(&o.Chain, "chain", false, "keep another hookscript and run it after this one in every phase")
	c.Flags().StringVar(&o.Storage, "storage", "", "`storage` for the hookscript file (default: local, or the one that is set)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be changed, change nothing")
	return c
}

func (a *app) enableAll(ctx context.Context, o pve.Options, share *bool, ids []int, out io.Writer) error {
	conf, err := a.load()
	if err != nil {
		return err
	}
	if err := pve.CheckNode(a.host.Root); err != nil {
		return err
	}
	o.Root, o.Cards = a.host.Root, host.ReadGPUs(a.host.Root)
	groups, settings, err := byGPUs(conf, ids, o.GPUs, func(s config.Settings) string {
		g, _, _ := pve.Find(o.Root, s.VMID) // Enable says what is wrong with it
		state, _ := pve.ReadState(s.Paths.State, s.VMID)
		return state.Chosen(g.Conf, o.Cards)
	})
	if err != nil {
		return err
	}
	o.State, o.Chains = settings[0].Paths.State, chains(settings)
	runs := func(vmid int) bool { return runs(ctx, settings[0].Paths.LXC, vmid) }
	o.Runs = runs
	o.Groups = func(vmid int) map[string]string {
		ctx, cancel := context.WithTimeout(ctx, glanceLimit)
		defer cancel()
		c, err := lxc.Open(ctx, settings[0].Paths.LXC, vmid)
		if err != nil {
			return nil // it does not run
		}
		defer c.Close()
		return pve.Groups(c)
	}
	if err := canShare(settings, share); err != nil {
		return err
	}
	lines, err := setShare(ctx, o.Root, settings, share, true, io.Discard)
	if err != nil {
		return err
	}
	o.Share = len(lines) == len(settings)
	for _, g := range groups { // before the first change
		o.GPUs = g.gpus
		if err := pve.Check(o, g.ids); err != nil && len(ids) > 1 {
			return fmt.Errorf("%w; nothing was changed", err)
		} else if err != nil {
			return err
		}
	}
	nodes := host.NodesPresent(o.Root)
	if !slices.Contains(host.NodePaths(nodes), uvm) && slices.ContainsFunc(groups, func(g group) bool { return g.gpus != "none" }) {
		if o.DryRun {
			fmt.Fprintln(out, "would make the missing device nodes of the host: pve-nvidia-hook devices")
			nodes = append(host.ReadFacts(o.Root).Nodes(), host.Node{Path: uvm, IsChar: true}, host.Node{Path: "/dev/nvidia-uvm-tools", IsChar: true})
		} else {
			err := host.MakeNodes(ctx, o.Root, nil, func(line string) { fmt.Fprintln(out, line) })
			if err != nil {
				fmt.Fprintf(out, "warning: %v\n", err)
			}
			nodes = host.NodesPresent(o.Root)
		}
	}
	for _, n := range nodes {
		if n.IsChar {
			o.Present = append(o.Present, pve.Device{Path: n.Path, Mode: n.Mode})
		}
	}
	for _, s := range settings {
		if a.shares(s, share) {
			a.sayShare(s, out)
		}
	}
	// What was told when a container was enabled is not told again.
	untold := slices.DeleteFunc(slices.Clone(settings), func(s config.Settings) bool {
		g, _, _ := pve.Find(o.Root, s.VMID) // Enable says what is wrong with it
		return share == nil && pve.Ours(g.Conf.Next().Hookscript)
	})
	a.sayReboot(ctx, untold, share, out)
	if slices.ContainsFunc(untold, func(s config.Settings) bool { return !a.shares(s, share) }) {
		fmt.Fprintln(out, "note: once the driver is installed, apt, dnf and zypper in the container refuse driver packages of the distribution; uninstall undoes that")
	}
	var errs []error
	for _, g := range groups {
		o.GPUs = g.gpus
		errs = append(errs, pve.Enable(ctx, o, g.ids, out))
	}
	if err := errors.Join(errs...); err != nil {
		return err // what is not enabled is not shared with
	}
	lines, err = setShare(ctx, o.Root, settings, share, o.DryRun, out)
	errs = append(errs, err)
	switch {
	case len(lines) == 0 || o.DryRun:
	case share != nil && !*share:
		fmt.Fprintf(out, "next: pve-nvidia-hook apply %d installs the driver now, else the next start does\n", lines[0])
	default:
		var commands []string
		for _, id := range lines {
			verb := "start"
			if runs(id) {
				verb = "reboot"
			}
			commands = append(commands, fmt.Sprintf("pct %s %d", verb, id))
		}
		fmt.Fprintf(out, "%s%s\n", pve.NextPrefix, strings.Join(commands, "; "))
	}
	for _, s := range settings {
		if o.Docker != nil && s.Docker.Toolkit != *o.Docker && s.Origin(dockerKey) != "default" && s.Origin(dockerKey) != config.ByEnable {
			fmt.Fprintf(out, "container %d: warning: --docker changes nothing: docker.toolkit is %t in %s\n", s.VMID, s.Docker.Toolkit, s.Origin(dockerKey))
		}
		if !s.Wanted {
			fmt.Fprintf(out, "container %d: warning: the hook will do nothing there, no driver is wanted: %s\n", s.VMID, s.WhyNot)
		}
	}
	return errors.Join(errs...)
}

// sayReboot tells before anything is changed that nobody can restart what runs in
// containers without systemd, once for all of them.
func (a *app) sayReboot(ctx context.Context, settings []config.Settings, share *bool, out io.Writer) {
	notes := map[string][]int{}
	for _, s := range settings {
		why := a.noSystemd(ctx, s)
		if why == "" || s.After.Reboot {
			continue
		}
		note := why + ", so services cannot be restarted: run pct reboot VMID after the installation and after each upgrade of the host's driver"
		if a.shares(s, share) {
			note = why + ", so programs have the driver only from the second start on: run pct reboot VMID once more"
		}
		notes[note] = append(notes[note], s.VMID)
	}
	for _, note := range slices.Sorted(maps.Keys(notes)) {
		which, vmid := "containers "+numbers(notes[note]), "VMID"
		if len(notes[note]) == 1 {
			vmid = numbers(notes[note])
			which = "container " + vmid
		}
		fmt.Fprintf(out, "%s: note: %s, or set reboot = true below [after]\n", which, strings.Replace(note, "VMID", vmid, 1))
	}
}

// noSystemd tells how a container's services are started where it is not by systemd, ""
// else. Of one that does not run its configuration tells it.
func (a *app) noSystemd(ctx context.Context, s config.Settings) string {
	ctx, cancel := context.WithTimeout(ctx, glanceLimit)
	defer cancel()
	g, _, _ := pve.Find(a.host.Root, s.VMID) // Enable says what is wrong with it
	why := ""
	if app := g.Conf.Next().App(); app != "" {
		why = "init is " + say.Clean(app, 100)
	}
	if c, err := lxc.Open(ctx, s.Paths.LXC, s.VMID); err == nil {
		defer c.Close()
		if after.Systemd(c) {
			return ""
		}
		why = cmp.Or(why, "no systemd")
	}
	return why
}

const (
	dockerKey = "docker.toolkit"
	uvm       = "/dev/nvidia-uvm" // CUDA's node, which nothing makes at boot
)

// enabledHere lists the containers of this node whose hookscript this program is.
func enabledHere(root string) ([]int, error) {
	guests, err := pve.Guests(root)
	var ids []int
	for _, g := range guests {
		if g.NotHere(pve.LocalNode(root)) == nil && g.Err == nil && pve.Ours(g.Conf.Next().Hookscript) {
			ids = append(ids, g.VMID)
		}
	}
	return ids, err
}

// chains are the hookscripts that the configuration chains.
func chains(settings []config.Settings) map[int]string {
	found := map[int]string{}
	for _, s := range settings {
		found[s.VMID] = s.Chain
	}
	return found
}
