package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) devices() *cobra.Command {
	ifNeeded, asList := false, false
	c := &cobra.Command{
		Use:   "devices",
		Short: "make the host's device nodes exist",
		Long: `Make the NVIDIA device nodes of this host exist: /dev/nvidiactl, one for each
GPU, nvidia-modeset, nvidia-uvm, nvidia-uvm-tools and those of nvidia-caps.

Proxmox VE does not start a container whose devN entry names a missing node, and
nothing else makes /dev/nvidia-uvm when the host boots. nvidia-modprobe is used
if it is installed, else modprobe loads the modules. Nodes that are still
missing are made with the numbers that the kernel reports. Correct nodes stay as
they are, and a host without a GPU is not an error.

With --list it prints the cards of this host and which containers have them,
and changes nothing. Without it, warnings name the nodes that now belong to
another card than the one that enable chose, and MIG instances that are gone
since the last boot.

Where containers of this node have the shared driver, it is prepared and mounted
for them, if its run file is in the cache.

The unit pve-nvidia-hook-devices.service runs this with --if-needed at boot,
before the guests: a GPU that is meant for virtual machines is left alone.`,
		Example: `  pve-nvidia-hook devices
  pve-nvidia-hook devices --list        print the cards
  pve-nvidia-hook devices --if-needed   leave a GPU alone that no container has`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			out := say.Lines(c.OutOrStdout())
			if asList {
				return a.listCards(out)
			}
			if err := hook.NeedsRoot("devices", a.host.Root, os.Geteuid()); err != nil {
				return err
			}
			pve.PlaceSnippets(a.host.Root, out)
			here, anywhere := true, true
			if ifNeeded {
				here, anywhere = needed(a.host)
			}
			if v, err := a.host.Module(); !anywhere && v == "" && err == nil {
				fmt.Fprintln(out, "the kernel module nvidia is not loaded and no container has devices of it, there is nothing to do")
				return nil
			}
			tell := func(line string) { fmt.Fprintln(out, line) }
			err := host.MakeNodes(c.Context(), a.host.Root, nil, tell)
			err = errors.Join(err, a.tellChanges(tell), a.shareAtBoot(c.Context()))
			if err != nil && !here {
				fmt.Fprintf(out, "warning: %v; no container of this node has devices of it\n", err)
				return nil
			}
			return err
		},
	}
	c.Flags().BoolVar(&ifNeeded, "if-needed", false, "load no kernel module unless a container of the cluster has the devices; fail only for one of this node")
	c.Flags().BoolVar(&asList, "list", false, "print the cards and the containers that have them")
	return c
}

// here lists this node's containers.
func here(root string) []pve.Guest {
	guests, _ := pve.Guests(root) // without Proxmox VE there are none
	local := pve.LocalNode(root)
	return slices.DeleteFunc(guests, func(g pve.Guest) bool { return g.NotHere(local) != nil })
}

// tellChanges names the containers whose cards are others than were chosen, and
// keeps those with MIG instances able to start.
func (a *app) tellChanges(tell func(string)) error {
	conf, err := a.load()
	if err != nil {
		return nil // said by all else; the nodes are made without it
	}
	cards := host.ReadGPUs(a.host.Root)
	var errs []error
	for _, g := range here(a.host.Root) {
		if minors := g.Conf.Caps(); len(minors) > 0 {
			gone, err := host.HoldCaps(a.host.Root, minors, tell)
			errs = append(errs, err)
			if len(gone) > 0 {
				tell(fmt.Sprintf("warning: container %s: its MIG instance does not exist any more (nvidia-cap%d): make it again by nvidia-smi mig, then pve-nvidia-hook enable %d --gpus GPU:INSTANCE", g, gone[0], g.VMID))
			}
		}
		s, _ := conf.For(g.VMID)
		state, err := pve.ReadState(s.Paths.State, g.VMID)
		errs = append(errs, err)
		for _, change := range state.Changes(g.Conf, cards) {
			tell(fmt.Sprintf("warning: container %s: %s; correct it with: pve-nvidia-hook enable %d", g, change, g.VMID))
		}
	}
	return errors.Join(errs...)
}

var errNoCard = hint.Errorf("pve-nvidia-hook doctor says why", "no GPU on this host uses the NVIDIA driver")

// listCards prints the host's cards and which containers have them.
func (a *app) listCards(out io.Writer) error {
	cards := host.ReadGPUs(a.host.Root)
	if len(cards) == 0 {
		return errNoCard
	}
	has := map[string][]string{}
	for _, g := range here(a.host.Root) {
		for _, node := range g.Conf.Nodes() {
			has[node] = append(has[node], g.String())
		}
	}
	printCards(out, cards, has)
	return nil
}

// printCards writes some lines for each card. has names the containers that have a
// card's node.
func printCards(out io.Writer, cards []host.GPU, has map[string][]string) {
	for _, g := range cards {
		fmt.Fprintf(out, "GPU %d: %s\n  %s\n  %s, %s\n  containers: %s\n", g.Index, cmp.Or(g.Model, "-"), cmp.Or(g.UUID, "-"),
			g.Address, g.Node(), cmp.Or(strings.Join(has[g.Node()], ", "), "-"))
		for n, i := range g.Instances {
			fmt.Fprintf(out, "  %d:%d: MIG GPU instance %d, compute instance %d\n", g.Index, n, i.GPU, i.Compute)
		}
	}
}

// needed reports whether containers of this node or of the cluster, which may
// move here, get devices of the driver. Where that cannot be told they do.
func needed(h host.Host) (here, anywhere bool) {
	guests, err := pve.Guests(h.Root)
	if err != nil {
		return true, true
	}
	local := pve.LocalNode(h.Root)
	for _, g := range guests {
		if !g.VM && (g.Err != nil || g.Conf.NVIDIA()) {
			anywhere = true
			here = here || g.Node == local
		}
	}
	return here, anywhere
}
