package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
)

type completion = func(c *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective)

// complete gives the commands what a shell can offer for their arguments. Files
// are offered to cache add alone, and to the flags that name one.
func (a *app) complete(root *cobra.Command) {
	root.ValidArgsFunction = offer(nil)
	for path, what := range map[string]completion{
		"status": a.offerVMIDs(-1), "doctor": a.offerVMIDs(-1), "apply": a.offerVMIDs(-1),
		"setup": a.offerVMIDs(-1), "enable": a.offerVMIDs(-1), "disable": a.offerVMIDs(-1), "uninstall": a.offerVMIDs(1),
		"config check": a.offerVMIDs(1), "config show": a.offerVMIDs(1), "replay": a.offerCall,
		"cache fetch":  offer([]string{"host"}),
		"cache verify": offer(nil), "cache list": offer(nil), "cache prune": offer(nil), "devices": offer(nil), "version": offer(nil),
	} {
		if c, _, err := root.Find(strings.Fields(path)); err == nil {
			c.ValidArgsFunction = what
			offerValues(c)
		}
	}
	offerValues(root)
}

// offerValues offers the values of the flags that take words or numbers.
func offerValues(c *cobra.Command) {
	for name, values := range map[string][]string{
		"gpus": {"all", "none"}, "log-level": {"debug", "info", "warning", "error"}, "log-format": {"text", "json"},
		"jobs": nil, "keep": nil, "storage": nil,
	} {
		if c.LocalFlags().Lookup(name) != nil {
			_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
		}
	}
}

// offer offers the words, once.
func offer(these []string) completion {
	return func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(words) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return these, cobra.ShellCompDirectiveNoFileComp
	}
}

// offerVMIDs offers the containers of this node, with their names; most -1 is any number.
func (a *app) offerVMIDs(most int) completion {
	return func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(words) >= most || a.prepare() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		conf, err := a.load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for id, name := range a.containers(conf).names {
			if !slices.Contains(words, fmt.Sprint(id)) {
				found = append(found, fmt.Sprintf("%d\t%s", id, name))
			}
		}
		slices.Sort(found)
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) offerCall(c *cobra.Command, words []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(words) == 1 {
		return []string{
			string(hook.PhasePreStart), string(hook.PhasePostStart), string(hook.PhasePreStop), string(hook.PhasePostStop),
		}, cobra.ShellCompDirectiveNoFileComp
	}
	return a.offerVMIDs(1)(c, words, typed)
}
