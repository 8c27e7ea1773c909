package cli

import (
	"errors"

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
		Long: `Take away what enable has set, and nothing else: the hookscript, for which the
one that was there before comes back, the devN entries that still stand as
enable made them, and the line that mounts the shared driver. Where this node
has no record of enable, because the container came from another node, the
hookscript that the configuration chains comes back, and the pct command that
removes the entries is named. The driver stays in the container until it is
removed by pve-nvidia-hook uninstall VMID, which needs the container running.`,
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
			_, settings, err := byGPUs(conf, ids, "all", nil)
			if err != nil {
				return err
			}
			o.Root, o.State, o.Chains = a.host.Root, settings[0].Paths.State, chains(settings)
			no := false
			return errors.Join(pve.Disable(c.Context(), o, ids, c.OutOrStdout()),
				setShare(c.Context(), o.Root, settings, &no, o.DryRun, c.OutOrStdout()))
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be changed, change nothing")
	return c
}
