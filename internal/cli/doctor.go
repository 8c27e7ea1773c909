package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/doctor"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) doctor() *cobra.Command {
	var asJSON, verbose bool
	c := &cobra.Command{
		Use:   "doctor [VMID...]",
		Short: "find what is wrong and say what to do",
		Long: `Look at this node and its containers, and say what is wrong and what to do about
it. Nothing is changed, no program is started in a container, and no network is
used. On the host, nvidia-smi is asked for the persistence mode.

Without a VMID it checks the containers of this node that have the hookscript or
had it from enable, and those that the configuration wants a driver in. Without
Proxmox VE it checks all that LXC has (paths.lxc).

` + doctor.Help() + `

Each finding is ok, a problem (something does not work, or will not at the next
start), a warning (it works, but not for everybody or not for long) or unknown
(it could not be read, so it may be right or wrong). Where one
finding follows from another, only its check is named, with its cause; --verbose
and --json (as "cause") show all of it.

Exit status: 0 no problems (there may be warnings and unknowns), 1 problems,
2 wrong usage.`,
		Example: `  pve-nvidia-hook doctor                this node and its containers
  pve-nvidia-hook doctor 101 --verbose  what is fine and what follows, too
  pve-nvidia-hook doctor --json | jq '.[] | select(.level == "problem")'`,
		Args: args(0, -1, "VMIDs"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			o := doctor.Options{Host: a.host, VMIDs: ids}
			if o.Config, err = a.load(); err != nil {
				o.Config, o.ConfigError = nil, err
			}
			report := doctor.Examine(c.Context(), o)
			if err := c.Context().Err(); err != nil {
				return stopped(c.Context(), err, "doctor", "nothing was changed; run it again") // what was broken off is not the container's fault
			}
			if asJSON {
				err = say.JSON(c.OutOrStdout(), report.Findings)
			} else {
				width, colour := screen(os.Stdout)
				err = report.Print(c.OutOrStdout(), verbose, colour, width)
			}
			if err != nil {
				return err
			}
			if report.Problems() {
				return errSaid
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&asJSON, "json", false, "print a list of findings as JSON")
	flags.BoolVar(&verbose, "verbose", false, "also show what is fine and what follows from another finding")
	return c
}
