package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// forRoot are the commands that say what is not true, or fail halfway, when they
// cannot read the cluster file system, the state folder and containers.
var forRoot = []string{"status", "doctor", "apply", "replay", "uninstall", "cache fetch", "cache add", "cache prune"}

// checkRoot refuses a command that needs root. Below a folder that stands for
// the host nothing is root's alone, and a trace is decided from its file.
func checkRoot(c *cobra.Command, hostRoot string, uid int) error {
	name := strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
	trace := c.Flags().Lookup("trace")
	if uid == 0 || hostRoot != "" || !slices.Contains(forRoot, name) || trace != nil && trace.Changed {
		return nil
	}
	return hint.Errorf("run it as root on the node", "%s needs root: what it looks at is for root alone", name)
}

// onContainers are the commands that look into containers, or work in them.
var onContainers = []string{"status", "doctor", "apply", "replay", "uninstall"}

// Works reports whether a command line is one of those.
func Works(args []string) bool {
	c, _, err := Root().Find(args)
	return err == nil && slices.Contains(onContainers, c.Name())
}
