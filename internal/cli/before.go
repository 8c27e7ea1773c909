package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// forRoot are the commands that need root. Without it they could not read or change
// the cluster file system, the state folder, the cache and containers: they would say
// what is not true, or fail halfway.
var forRoot = append([]string{"apply", "replay", "uninstall", "setup", "enable", "disable",
	"cache fetch", "cache add", "cache verify", "cache prune"}, lookingInside...)

// checkRoot refuses a command that needs root.
func checkRoot(c *cobra.Command, hostRoot string, uid int) error {
	if !isOf(c, forRoot) {
		return nil
	}
	return hook.NeedsRoot(name(c), hostRoot, uid)
}

func name(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

// isOf reports whether a command is one of those named. One that decides from the
// file of a trace needs nothing of the host.
func isOf(c *cobra.Command, names []string) bool {
	trace := c.Flags().Lookup("trace")
	return slices.Contains(names, name(c)) && (trace == nil || !trace.Changed)
}

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
