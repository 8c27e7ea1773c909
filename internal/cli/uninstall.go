package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

func (a *app) uninstall() *cobra.Command {
	var dryRun, force bool
	c := &cobra.Command{
		Use:   "uninstall VMID",
		Short: "remove driver and CUDA toolkit from a running container",
		Long: `Remove from a running container what this program has installed: the CUDA
packages that it installed, the driver's user space, and the record. The
driver's own uninstaller does it, also for a driver that a run file installed by
hand; it never touches kernel modules. At the end the removal is checked. Of a
shared driver only what leads programs to it is removed; it stays mounted until
the container's next start after disable.

The next start installs the driver again, unless you run disable as well,
or set enabled = false for the container.`,
		Example: `  pve-nvidia-hook uninstall 101 --dry-run
  pve-nvidia-hook disable 101 && pve-nvidia-hook uninstall 101`,
		Args: args(1, 1, "a VMID"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			conf, err := a.load()
			if err != nil {
				return err
			}
			vmid := ids[0]
			known := a.containers(conf)
			if err := known.missing(vmid); err != nil { // else it would read as one that is only not running
				return err
			}
			log := a.log.For(vmid)
			t, err := hook.Uninstall(c.Context(), vmid, hook.Options{
				Config: conf, Host: a.host, Log: log, Level: a.logLevel, Format: a.logFormat,
				Terminal: isTerminal(os.Stderr), Request: hook.Request{DryRun: dryRun, Force: force},
			})
			t.Say(log, err)
			switch {
			case t.Bad():
				return errSaid
			case dryRun:
				printPlan(c.OutOrStdout(), t)
				return nil
			}
			if t.Settings.Wanted && known.standing[vmid] == pve.Follows {
				fmt.Fprintf(c.OutOrStdout(), "the next start of %[1]d installs it again, and so does apply --all; to keep it away: pve-nvidia-hook disable %[1]d, or enabled = false below [containers.%[1]d] in the configuration\n", vmid)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, change nothing")
	c.Flags().BoolVar(&force, "force", false, "also where distribution packages of the driver are installed")
	return c
}
