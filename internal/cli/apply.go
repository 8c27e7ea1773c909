package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// defaultJobs is how many containers are worked on at once: an installation
// loads one core and the disk, and the node has other work to do.
const defaultJobs = 2

func (a *app) apply() *cobra.Command {
	var all, dryRun, force, restart, replace bool
	var jobs int
	c := &cobra.Command{
		Use:   "apply [VMID...]",
		Short: "bring running containers into line now",
		Long: `Do now what the next start of a container would do: bring its driver and CUDA
toolkit into line with the host and the configuration. A container that is
already in line takes a few milliseconds.

Only running containers can be worked on. With --all these are the running ones
that follow the host: whose hookscript is set, or that a configuration wants the
driver in. Naming a stopped one is an error; its next start does the work. After
a failure, starts and --all wait for a while before they try again; a container
that is named is tried at once.

Services that still use another driver, or were started before it was there, are
reported; --restart restarts them, as a start of the container does. The
settings below [after] say which these are, and what else is done after an
installation.

Where packages of the distribution have installed a driver nothing is done.
--replace-packages removes these packages and puts the host's driver in their
place. It is refused when other packages need them.

A container that runs keeps the shared driver that it was started with; for
another version it is refused, and pct reboot VMID gets that.

The last line is a summary. The exit status is 1 if a container failed, was
refused or is not running.`,
		Example: `  pve-nvidia-hook apply --all --jobs 4
  pve-nvidia-hook apply 101 102 --dry-run
  pve-nvidia-hook apply 101 --force          # install again in any case`,
		Args: args(0, -1, "VMIDs"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			switch {
			case err != nil:
				return err
			case all == (len(ids) > 0):
				return errNamesOrAll
			}
			conf, err := a.load()
			if err != nil {
				return err
			}
			known := a.containers(conf)
			if all {
				// Which containers follow is only in the cluster file system.
				if err := pve.CheckNode(a.host.Root); err != nil && !errors.Is(err, pve.ErrNoNode) {
					return err
				}
				ids = a.running(c.Context(), conf, known.followed())
			}
			for _, vmid := range ids {
				if err := known.missing(vmid); err != nil {
					return fmt.Errorf("%w; nothing was started", err)
				}
			}
			slices.Sort(ids)
			return a.applyTo(c, conf, slices.Compact(ids), jobs, hook.Options{Request: hook.Request{DryRun: dryRun, Force: force, Asked: !all, Restart: restart, Replace: replace, NoWait: true}})
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "all running containers that follow the host")
	numberFlag(f, &jobs, "jobs", defaultJobs, 1, 64, "work on `N` containers at once")
	f.BoolVar(&dryRun, "dry-run", false, "print what would be done, change nothing")
	f.BoolVar(&force, "force", false, "install again even if the driver is in place")
	f.BoolVar(&replace, "replace-packages", false, "remove the distribution's packages of the driver first")
	f.BoolVar(&restart, "restart", false, "restart services that use another driver or are known to want a GPU")
	return c
}

// running picks the containers that run and want the driver, without a look at
// their files. One whose settings have mistakes is among them, so that they are
// said and counted.
func (a *app) running(ctx context.Context, conf *config.Config, ids []int) []int {
	return slices.DeleteFunc(ids, func(vmid int) bool {
		s, err := conf.For(vmid)
		return err == nil && !s.Wanted || !runs(ctx, s.Paths.LXC, vmid)
	})
}

// applyTo runs post-start on containers, some at once.
func (a *app) applyTo(c *cobra.Command, conf *config.Config, ids []int, jobs int, o hook.Options) error {
	ctx := c.Context()
	log := a.log
	if !o.DryRun {
		log.ToJournal()
	}
	o.Config, o.Host, o.Level, o.Format = conf, a.host, a.logLevel, a.logFormat
	o.Terminal = len(ids) == 1 && isTerminal(os.Stderr) // bars of several would write over each other
	traces := make([]hook.Trace, len(ids))
	each(len(ids), jobs, func(i int) {
		mine := o
		mine.Log = log.For(ids[i])
		err := errors.New("not started, apply was interrupted")
		traces[i] = hook.Trace{VMID: ids[i], Result: hook.Refused}
		if ctx.Err() == nil {
			traces[i], err = hook.PostStart(ctx, hook.Event{VMID: ids[i], Phase: hook.PhasePostStart}, mine)
		}
		traces[i].Say(mine.Log, err)
	})
	for _, t := range traces {
		if o.DryRun && t.Result == hook.Skipped {
			printPlan(c.OutOrStdout(), t)
		}
	}
	fmt.Fprintln(c.OutOrStdout(), summary(traces, o.DryRun))
	if slices.ContainsFunc(traces, hook.Trace.Bad) {
		return errSaid
	}
	return nil
}

// summary is such as "5 containers: 3 in place, 1 installed, 1 failed (104)".
func summary(traces []hook.Trace, dryRun bool) string {
	const toDo = "to be done"
	count := map[string]int{}
	who := map[string][]string{}
	for _, t := range traces {
		word := inWord(t.Phase, t.Result, t.Settings.Wanted)
		if t.Result == hook.Skipped && dryRun && len(t.Plan.Steps) > 0 {
			word = toDo
		}
		if t.Bad() {
			who[word] = append(who[word], fmt.Sprint(t.VMID))
		}
		count[word]++
	}
	text := say.Count(len(traces), "container")
	var parts []string
	for _, word := range []string{inPlace, notWanted, toDo, string(hook.Installed), string(hook.Background), string(hook.Refused), string(hook.Failed)} {
		if count[word] == 0 {
			continue
		}
		part := fmt.Sprintf("%d %s", count[word], word)
		if len(who[word]) > 0 {
			part += " (" + strings.Join(who[word], ", ") + ")"
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return text + ": nothing to do"
	}
	return text + ": " + strings.Join(parts, ", ")
}
