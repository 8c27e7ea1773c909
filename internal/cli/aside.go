package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// goingAside are the commands that look into containers and are left to a worker as
// a whole. Those that work in them leave each run to one.
var goingAside = []string{"status", "doctor"}

// aside leaves a run to a worker, if there is one. The worker does the same command.
func (a *app) aside(job worker.Job) func(context.Context) (hook.Trace, error) {
	if a.work == nil {
		return nil
	}
	return hook.Aside(a.work, job)
}

// told ends the command of a worker that has done a run.
func told(t hook.Trace) error {
	if err := worker.Tell(t); err != nil {
		return err
	}
	if t.Bad() {
		return errSaid
	}
	return nil
}

// goAside leaves a command to another process as a whole if it may hang in a
// container.
func (a *app) goAside(c *cobra.Command) error {
	if a.work == nil || !isOf(c, goingAside) {
		return nil
	}
	report, err := a.work(c.Context(), worker.Job{})
	switch {
	case errors.Is(err, worker.ErrUnconcluded):
		a.log.Fail(err)
		return errSaid
	case err != nil:
		a.log.Warnf("%v", err) // it is left behind
	}
	return exit(report.Status)
}
