package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func (a *app) cachePrune() *cobra.Command {
	var asJSON, dryRun bool
	var keep int
	c := &cobra.Command{
		Use:   "prune",
		Short: "remove run files that are no longer needed",
		Long: `Remove all run files and their trees except those used last (cache.keep), those
whose version a container's settings or the loaded kernel module want, and
those in use by a run. Abandoned partial downloads and refused files are
removed too; they do not count as versions to keep.

If several nodes share the cache, this node does not know which versions the
other nodes need: use a higher --keep there.`,
		Example: "  pve-nvidia-hook cache prune --dry-run\n  pve-nvidia-hook cache prune --keep 1",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			store, s, conf, err := a.openCache("cache prune")
			if err != nil {
				return err
			}
			if !c.Flags().Changed("keep") {
				keep = s.Cache.Keep
			}
			wanted, err := a.wanted(conf)
			if err != nil {
				return err
			}
			prune := store.Prune
			if dryRun {
				prune = func(_ context.Context, keep int, wanted func(version.Driver) bool) ([]cache.Item, error) {
					items, err := store.List()
					items = cache.Prunable(items, keep, wanted)
					return slices.DeleteFunc(items, func(it cache.Item) bool { return it.InUse }), err
				}
			}
			items, err := prune(c.Context(), keep, func(v version.Driver) bool { return wanted[v] })
			if !dryRun {
				err = errors.Join(err, hook.PruneShare(s))
			}
			return errors.Join(printPruned(c.OutOrStdout(), items, asJSON, dryRun), err)
		},
	}
	numberFlag(c.Flags(), &keep, "keep", 0, 1, 1000, "keep `N` versions instead of cache.keep")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be removed, remove nothing")
	jsonFlag(c, &asJSON)
	return c
}

// wanted are the versions that some container may ask for. That of the module
// counts always; when it cannot be read nothing is pruned, rather than too much.
func (a *app) wanted(conf *config.Config) (map[version.Driver]bool, error) {
	module, err := a.host.Module()
	if err != nil {
		return nil, err
	}
	wanted := map[version.Driver]bool{module: true}
	for _, vmid := range append([]int{0}, conf.Containers()...) {
		s, err := conf.For(vmid)
		if err != nil {
			return nil, err
		}
		if s.Wanted {
			wanted[version.Driver(s.Driver.Version)] = true
		}
	}
	return wanted, nil
}

func printPruned(out io.Writer, items []cache.Item, asJSON, dryRun bool) error {
	if asJSON {
		return printItems(out, items, true)
	}
	did, sum := "removed", int64(0)
	if dryRun {
		did = "would remove"
	}
	for _, it := range items {
		sum += it.Size + it.TreeSize
		fmt.Fprintf(out, "%s %s, %s\n", did, it.Path, say.Bytes(it.Size+it.TreeSize))
	}
	if len(items) == 0 {
		fmt.Fprintln(out, "nothing to remove")
		return nil
	}
	fmt.Fprintf(out, "%s %s in all\n", did, say.Bytes(sum))
	return nil
}
