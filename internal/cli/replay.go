package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
)

func (a *app) replay() *cobra.Command {
	var dryRun, force bool
	c := &cobra.Command{
		Use:   "replay VMID PHASE",
		Short: "run a phase by hand, with debug output",
		Args:  args(2, 2, "a VMID and a phase"),
		RunE: func(c *cobra.Command, words []string) error {
			e, err := hook.ParseEvent(words)
			if err != nil {
				return usage{err}
			}
			if a.logLevel == "" {
				a.logLevel = "debug"
				if err := a.prepare(); err != nil {
					return err
				}
			}
			log := a.log.For(e.VMID)
			if e.Phase != hook.PhasePostStart {
				log.Infof("%s: nothing to do", e.Phase)
				return nil
			}
			conf, err := a.load()
			if err != nil {
				return err
			}
			t, err := hook.PostStart(c.Context(), e, hook.Options{
				Config: conf, Host: a.host, Log: log, DryRun: dryRun, Force: force, Terminal: isTerminal(os.Stderr),
			})
			if err != nil {
				log.Fail(err)
				return errSaid
			}
			if dryRun {
				printPlan(c, t)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan, change nothing")
	c.Flags().BoolVar(&force, "force", false, "install again whatever is there, and whatever failed before")
	return c
}

func printPlan(c *cobra.Command, t hook.Trace) {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "container %d: %s\n", t.VMID, t.Plan.Why)
	if len(t.Plan.Steps) == 0 {
		fmt.Fprintln(out, "nothing would be done")
		return
	}
	var words []string
	for _, s := range t.Plan.Steps {
		words = append(words, string(s))
	}
	fmt.Fprintf(out, "would do for driver %s: %s\n", t.Plan.Wanted, strings.Join(words, ", "))
}
