package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
)

func (a *app) devices() *cobra.Command {
	return &cobra.Command{
		Use:   "devices",
		Short: "make the host's device nodes exist",
		Long: `Make the NVIDIA device nodes of this host exist: /dev/nvidiactl, one for each
GPU, nvidia-modeset, nvidia-uvm, nvidia-uvm-tools and those of nvidia-caps.

Proxmox VE starts no container whose devN entry names a missing node, and
nothing makes /dev/nvidia-uvm when the host boots. nvidia-modprobe is used where
it is installed; what it leaves undone is made from what the kernel says. Nodes
that are right stay as they are, and a host without a GPU is no error.

The unit pve-nvidia-hook-devices.service runs this at boot, before the guests.`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return host.MakeNodes(c.Context(), a.host.Root, nil, func(line string) {
				fmt.Fprintln(c.OutOrStdout(), line)
			})
		},
	}
}
