package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

func (a *app) disable() *cobra.Command {
	var o pve.Options
	c := &cobra.Command{
		Use:   "disable VMID...",
		Short: "undo what enable did",
		Long: `Remove what enable has set, and nothing else: the hookscript, in place of which
the earlier one is set again, the devN entries that were not changed since, and
the line that mounts the shared driver. If the container came from another node,
this node has no record of enable: then the hookscript that the configuration
chains is set again, and the pct command that removes the entries is printed.
The driver stays in the container until you remove it by pve-nvidia-hook
uninstall VMID, while the container runs.`,
		Example: `  pve-nvidia-hook disable 101
  pve-nvidia-hook disable 101 102 --dry-run   say what would be changed`,
		Args: args(1, -1, "at least one VMID"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			conf, err := a.load()
			if err != nil {
				return hint.Wrap(err, "correct the configuration first: it names the folder of what enable has set; see "+config.CheckCommand(a.configFile))
			}
			if err := pve.CheckNode(a.host.Root); err != nil {
				return err
			}
			_, settings, err := byGPUs(conf, ids, "all", nil)
			if err != nil {
				return err
			}
			o.Root, o.State, o.Chains = a.host.Root, settings[0].Paths.State, chains(settings)
			var enabled []int
			for _, id := range ids {
				if g, found, err := pve.Find(o.Root, id); err == nil && found && pve.Ours(g.Conf.Next().Hookscript) {
					enabled = append(enabled, id)
				}
			}
			no := false
			err = pve.Disable(c.Context(), o, ids, c.OutOrStdout())
			changed, also := setShare(c.Context(), o.Root, settings, &no, o.DryRun, c.OutOrStdout())
			for _, id := range ids {
				if !o.DryRun && (slices.Contains(changed, id) || err == nil && slices.Contains(enabled, id)) {
					fmt.Fprintf(c.OutOrStdout(), "container %d: what was installed in it stays until you run pve-nvidia-hook uninstall %d, while it runs; a shared driver stays mounted until its next start\n", id, id)
				}
			}
			return errors.Join(err, also)
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be changed, change nothing")
	return c
}
