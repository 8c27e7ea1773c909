package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// lookingInside are the commands that look into many containers. A container can make
// a reader of its files wait for ever, so a worker runs these commands as a whole.
var lookingInside = []string{"status", "doctor"}

// lookInWorker is false in a test that calls a command in its own process.
var lookInWorker = true

// inWorker runs such a command in a worker and ends with its exit status. In the
// worker itself, and for other commands, it returns nil.
func (a *app) inWorker(c *cobra.Command) error {
	if worker.Is() || !lookInWorker || !isOf(c, lookingInside) {
		return nil
	}
	report, err := worker.Do(c.Context(), worker.Job{})
	switch {
	case errors.Is(err, worker.ErrUnconcluded) && c.Context().Err() != nil:
		return hint.Errorf("nothing was changed; run it again", "%s: interrupted", c.Name())
	case errors.Is(err, worker.ErrUnconcluded):
		a.log.Fail(err)
		return errSaid
	case err != nil:
		a.log.Warnf("%v", err) // it is left behind
	}
	return exit(report.Status)
}
