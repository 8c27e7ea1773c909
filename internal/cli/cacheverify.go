package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func (a *app) cacheVerify() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify [VERSION...]",
		Short: "read run files again and compare their checksums",
		Long: `Read all run files of the cache, or those of the versions named, compare their
checksums, and check that their trees are complete. A wrong file is refused: it
is renamed to FILE.refused, with the reason in a file beside it, and fetched
again when it is needed. The exit status is 1 if a file is wrong.`,
		Example: "  pve-nvidia-hook cache verify",
		Args:    args(0, -1, "driver versions"),
		RunE: func(c *cobra.Command, words []string) error {
			var versions []version.Driver
			for _, w := range words {
				v, err := a.versionArg(w)
				if err != nil {
					return err
				}
				versions = append(versions, v)
			}
			store, _, _, err := a.openCache("cache verify")
			if err != nil {
				return err
			}
			items, failed, err := a.verifyItems(c.Context(), store, versions)
			if err != nil {
				return err
			}
			if err := printItems(c.OutOrStdout(), items, asJSON); err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintln(c.OutOrStdout(), tally(items, failed))
			}
			if len(failed) > 0 {
				return errSaid
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// tally counts what came of a verification.
func tally(items []cache.Item, failed map[string]bool) string {
	good := -len(failed)
	for _, it := range items {
		if it.State != cache.Partial {
			good++
		}
	}
	line := "verified: " + say.Count(good, "file")
	if len(failed) > 0 {
		line += fmt.Sprintf(", wrong: %d", len(failed))
	}
	return line
}

// verifyItems returns those that it has looked at, and the paths of those that
// are not in order.
func (a *app) verifyItems(ctx context.Context, store *cache.Cache, versions []version.Driver) (checked []cache.Item, failed map[string]bool, err error) {
	items, err := store.List()
	if err != nil {
		return nil, nil, err
	}
	for _, v := range versions {
		if !slices.ContainsFunc(items, func(it cache.Item) bool { return it.Version == v }) {
			return nil, nil, hint.Errorf("pve-nvidia-hook cache list shows what is there", "driver %s is not in the cache %s", v, store.Dir)
		}
	}
	failed = map[string]bool{}
	for _, it := range items {
		if len(versions) > 0 && !slices.Contains(versions, it.Version) {
			continue
		}
		if it.State != cache.Partial {
			after, err := store.Verify(ctx, it.Version, it.Arch)
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, nil, stopped(ctx, ctx.Err(), "verify "+it.Path, "the same command begins anew")
			}
			if after.Path != "" {
				it = after // a refused one has another path
			}
			if err != nil {
				a.log.Fail(err)
				failed[it.Path] = true
			}
		}
		checked = append(checked, it)
	}
	return checked, failed, nil
}
