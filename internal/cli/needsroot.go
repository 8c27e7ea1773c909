package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
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
