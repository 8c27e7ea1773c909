package pve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
)

// apply says and does the plans, one container after the other; one that fails does not stop the next.
// It returns those that did not fail.
func (o Options) apply(ctx context.Context, jobs []job, out io.Writer) (done []job, err error) {
	var errs []error
	for _, j := range jobs {
		if o.DryRun {
			j.say("would ", out)
		} else if err := o.change(ctx, j, out); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", j.guest, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		done = append(done, j)
		for _, line := range j.plan.Warnings {
			fmt.Fprintf(out, "container %s: warning: %s\n", j.guest, line)
		}
		if j.plan.Empty() {
			fmt.Fprintf(out, "container %s: nothing to change\n", j.guest)
		}
		if o.DryRun {
			for _, args := range j.plan.Calls() {
				fmt.Fprintf(out, "container %s: would run: pct %s\n", j.guest, strings.Join(args, " "))
			}
		}
	}
	return done, errors.Join(errs...)
}

// say tells what is changed and what is left. would stands before a change that
// is not made.
func (j job) say(would string, out io.Writer) {
	for _, line := range j.plan.Lines {
		if what, ok := strings.CutPrefix(line, "remove "); ok && would == "" {
			line = "removed " + what
		} else if ok || strings.HasPrefix(line, "set ") {
			line = would + line
		}
		fmt.Fprintf(out, "container %s: %s\n", j.guest, line)
	}
}

// change runs pct for one container. What it is about to set is written down
// before, so that nothing is ever set that nobody remembers; what came of it is
// written down afterwards, from the configuration as it then stands. Where pct
// has changed nothing, what was written down before stands again: an enable that
// failed must not read like one that was asked for no devices.
func (o Options) change(ctx context.Context, j job, out io.Writer) error {
	if j.plan.Empty() {
		j.say("", out)
		return j.plan.State.write(o.State, j.guest.VMID)
	}
	was, err := ReadState(o.State, j.guest.VMID)
	if err != nil {
		return err
	}
	intent := j.plan.State
	intent.Hookscript, intent.Dev = cmp.Or(intent.Hookscript, j.state.Hookscript), maps.Clone(j.state.Dev)
	for n, value := range j.plan.State.Dev {
		put(&intent.Dev, n, value)
	}
	if err := intent.write(o.State, j.guest.VMID); err != nil {
		return err
	}
	var failed error
	now := j.guest
	for _, args := range j.plan.Calls() {
		before := now.Conf
		failed = runPct(ctx, o.pct(), args)
		var found bool
		var err error
		now, found, err = Find(o.Root, j.guest.VMID)
		if err != nil || !found || now.Err != nil {
			return errors.Join(failed, err, now.Err)
		}
		// Proxmox looks for the devices of a container after it has written the
		// configuration. The next call may take away the one that is missing.
		if failed != nil && reflect.DeepEqual(before, now.Conf) {
			break
		}
	}
	stands := settle(intent, now.Conf)
	if failed != nil && reflect.DeepEqual(j.guest.Conf, now.Conf) {
		stands = was
	}
	if err := stands.write(o.State, j.guest.VMID); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil && !reflect.DeepEqual(j.guest.Conf, now.Conf) {
		fmt.Fprintf(out, "container %s: only part of the change was made (see pct config %d), the rest failed\n", j.guest, j.guest.VMID)
	}
	if failed == nil {
		j.say("", out)
	}
	if failed == nil && now.Conf.Waits() {
		fmt.Fprintf(out, "container %s: part of the change takes effect at the next start: pct reboot %d\n", j.guest, j.guest.VMID)
	}
	return failed
}

// settle is what of the intent stands in the configuration after pct has run, or has failed.
func settle(intent State, now Conf) State {
	next := now.Next()
	s := State{Dev: map[int]string{}, Kept: intent.Kept}
	for n, value := range intent.Dev {
		if next.Dev[n] == value {
			s.Dev[n] = value
		}
	}
	if Ours(next.Hookscript) {
		s.Hookscript, s.None, s.GPUs, s.Cards = next.Hookscript, intent.None, intent.GPUs, intent.Cards
		s.DRI, s.Docker = intent.DRI, intent.Docker
	}
	return s
}
