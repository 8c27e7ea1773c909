package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) replay() *cobra.Command {
	var dryRun, force bool
	var trace string
	c := &cobra.Command{
		Use:   "replay VMID PHASE",
		Short: "run a phase by hand, or decide again from a kept trace",
		Long: `Run a phase of a container as Proxmox VE does, with debug output. The phases
are pre-start, post-start, pre-stop and post-stop; only post-start works on the
container, and pre-start makes a shared driver ready on the node. When Proxmox
VE calls the last two, background work on the container is ended; replay does
not end it. A chained hookscript is run in every phase.

With --trace FILE and no other arguments: decide again from the trace of an
earlier run, and say whether this version of the program would do the same.
Settings and facts are those in the trace, so this works on any machine, without
LXC and Proxmox VE, and changes nothing. FILE "-" is standard input. The last 20
traces of each container are kept below the state folder, in runs/VMID; they
hold no credentials.

The exit status is 0 if the phase succeeded or the decision is the same, 1 if it
failed, was refused or differs.`,
		Example: `  pve-nvidia-hook replay 101 post-start --dry-run
  pve-nvidia-hook replay 101 post-start --force
  pve-nvidia-hook replay --trace runs/101/20260301T101502.123456Z.json`,
		Args: func(c *cobra.Command, words []string) error {
			if trace != "" {
				return args(0, 0, "no VMID and phase with --trace")(c, words)
			}
			return args(2, 2, "a VMID and a phase, or --trace FILE")(c, words)
		},
		RunE: func(c *cobra.Command, words []string) error {
			if trace != "" {
				if dryRun || force {
					return usage{errors.New("--trace takes no other flags: it changes nothing and decides as the run did")}
				}
				return decideAgain(c.OutOrStdout(), c.InOrStdin(), trace)
			}
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
			return a.replayEvent(c.Context(), c.OutOrStdout(), e, hook.Options{Request: hook.Request{DryRun: dryRun, Force: force}})
		},
	}
	f := c.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "print the plan in words, change nothing")
	f.BoolVar(&force, "force", false, "install again, even if it is in place or failed before")
	f.StringVar(&trace, "trace", "", "decide again from the trace in `FILE`")
	return c
}

func (a *app) replayEvent(ctx context.Context, out io.Writer, e hook.Event, o hook.Options) error {
	log := a.log.For(e.VMID)
	conf, err := a.load()
	if err != nil {
		return err
	}
	o.Config, o.Host, o.Log, o.Terminal, o.Level, o.Format = conf, a.host, log, isTerminal(os.Stderr), a.logLevel, a.logFormat
	failed := false
	switch e.Phase {
	case hook.PhasePreStop, hook.PhasePostStop:
		log.Infof("%s: when Proxmox VE calls it, work in the background is ended; replay does not end it", e.Phase)
	case hook.PhasePreStart:
		s, err := conf.For(e.VMID)
		if err != nil || !s.Wanted || !hook.Shares(a.host, s) {
			log.Infof("%s: this program has nothing to do", e.Phase)
			break
		}
		log.Infof("%s: this program makes the shared driver ready", e.Phase)
		if !o.DryRun {
			hook.PreStart(ctx, e.VMID, o)
		}
	default:
		t, err := hook.PostStart(ctx, e, o)
		if err != nil && t.Plan.Held {
			err = hint.Wrap(err, "to try again at once, add --force")
		}
		t.Say(log, err)
		failed = t.Bad()
		if o.DryRun && !failed {
			printPlan(out, t)
		}
	}
	switch other := hook.Chained(conf, e.VMID); {
	case other == "":
	case o.DryRun:
		fmt.Fprintf(out, "then the chained hookscript %s would be run\n", say.Clean(other, 200))
	default:
		log.Infof("running the chained hookscript %s", other)
		if status := hook.RunChained(ctx, other, e, o); status != 0 {
			failed = true
		}
	}
	if failed {
		return errSaid
	}
	return nil
}

const whereTraces = "traces lie below the state folder, in runs/VMID, and are for root alone"

// decideAgain prints what a run decided and what today's program would.
func decideAgain(out io.Writer, in io.Reader, file string) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return hint.Wrap(fmt.Errorf("read the trace: %w", err), whereTraces)
		}
		defer f.Close()
		in = f
	}
	t, err := hook.ReadTrace(in)
	var unreadable *fs.PathError
	if errors.As(err, &unreadable) {
		return hint.Wrap(err, whereTraces)
	}
	if err != nil || t.VMID == 0 || t.Phase == "" {
		return hint.Errorf(whereTraces, "%s is not a trace of this program", say.Clean(file, 200))
	}
	fmt.Fprintf(out, "container %d, %s at %s, by program %s: %s\n", t.VMID, say.Clean(string(t.Phase), 40),
		t.At.Format("2006-01-02 15:04:05 -0700"), say.Clean(t.Program, 40), say.Clean(string(t.Result), 40))
	again := t.Again()
	then := "then"
	if again.Undecided == "" && len(again.Changes) == 0 {
		then = "then and now"
	}
	sayPlan(out, then, t, t.Plan)
	for _, o := range t.Steps {
		if o.Error != "" {
			fmt.Fprintf(out, "      then %s failed: %s\n", say.Clean(string(o.Step), 40), say.Clean(o.Error, 1000))
		}
	}
	if again.Undecided != "" {
		fmt.Fprintf(out, "now:  nothing to decide, %s\n", say.Clean(again.Undecided, 1000))
		return nil
	}
	if len(again.Changes) > 0 {
		sayPlan(out, "now", t, again.Plan)
	}
	for _, c := range again.Changes {
		fmt.Fprintf(out, "%s: %s -> %s\n", say.Clean(c.Field, 40), say.Clean(cmp.Or(c.Then, "-"), 500), say.Clean(cmp.Or(c.Now, "-"), 500))
	}
	switch {
	case again.Otherwise:
		fmt.Fprintln(out, "today's program would decide otherwise")
		return errSaid
	case len(again.Changes) > 0:
		fmt.Fprintln(out, "same decision, in other words")
	default:
		fmt.Fprintln(out, "same decision")
	}
	return nil
}

func sayPlan(out io.Writer, when string, t hook.Trace, p hook.Plan) {
	why := say.Clean(cmp.Or(p.Why, "-"), 1000)
	switch {
	case p.Refused:
		fmt.Fprintf(out, "%-5s refused, %s\n", when+":", why)
	case len(p.Steps) == 0 && p.Why == "":
		fmt.Fprintf(out, "%-5s nothing was decided\n", when+":")
	case len(p.Steps) == 0:
		fmt.Fprintf(out, "%-5s nothing to do, %s\n", when+":", why)
	default:
		fmt.Fprintf(out, "%-5s %s\n", when+":", why)
		for i, w := range inWords(t, p) {
			fmt.Fprintf(out, "      %d. %s\n", i+1, say.Clean(w, 500))
		}
	}
}
