package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

func (a *app) devices() *cobra.Command {
	ifNeeded := false
	c := &cobra.Command{
		Use:   "devices",
		Short: "make the host's device nodes exist",
		Long: `Make the NVIDIA device nodes of this host exist: /dev/nvidiactl, one for each
GPU, nvidia-modeset, nvidia-uvm, nvidia-uvm-tools and those of nvidia-caps.

Proxmox VE starts no container whose devN entry names a missing node, and
nothing makes /dev/nvidia-uvm when the host boots. nvidia-modprobe is used where
it is installed; else modprobe loads the modules. What is left undone is made
from what the kernel says. Nodes that are right stay as they are, and a host
without a GPU is no error.

The unit pve-nvidia-hook-devices.service runs this with --if-needed at boot,
before the guests: a GPU that is meant for virtual machines is left alone.`,
		Example: `  pve-nvidia-hook devices
  pve-nvidia-hook devices --if-needed   leave a GPU alone that no container has`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			out := c.OutOrStdout()
			here, anywhere := true, true
			if ifNeeded {
				here, anywhere = needed(a.host)
			}
			if v, err := a.host.Module(); !anywhere && v == "" && err == nil {
				fmt.Fprintln(out, "the kernel module nvidia is not loaded and no container has devices of it, there is nothing to do")
				return nil
			}
			err := host.MakeNodes(c.Context(), a.host.Root, nil, func(line string) {
				fmt.Fprintln(out, line)
			})
			if err != nil && !here {
				fmt.Fprintf(out, "warning: %v; no container of this node has devices of it\n", err)
				return nil
			}
			return err
		},
	}
	c.Flags().BoolVar(&ifNeeded, "if-needed", false, "load no kernel module unless a container of the cluster has the devices; fail only for one of this node")
	return c
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
