package cli

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) cacheList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "list run files: size, how verified, last used",
		Long: `List the run files of the cache, the newest version first. STATE is ready
(verified, and unchanged since), unverified (put there by hand, or changed
since; it is verified before it is used), refused (found wrong and renamed to
FILE.refused until a good one is there), or partial (a download that was
interrupted or is running). UNPACKED is the size of the tree that containers
install from, "-" when there is none yet.`,
		Example: "  pve-nvidia-hook cache list --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			store, _, _, err := a.openCache("")
			if err != nil {
				return err
			}
			items, err := store.List()
			if err != nil {
				return err
			}
			if len(items) == 0 && !asJSON {
				fmt.Fprintf(c.OutOrStdout(), "the cache %s is empty\n", store.Dir)
				return nil
			}
			if err := printItems(c.OutOrStdout(), items, asJSON); err != nil || asJSON {
				return err
			}
			for _, it := range items {
				if it.State == cache.Refused {
					fmt.Fprintf(c.OutOrStdout(), "\n%s is refused: %s\n  %s\n", cache.FileName(it.Version, it.Arch), it.Damage, it.Advice())
				}
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func printItems(out io.Writer, items []cache.Item, asJSON bool) error {
	if asJSON {
		if items == nil {
			items = []cache.Item{}
		}
		return say.JSON(out, items)
	}
	if len(items) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tARCH\tSTATE\tSIZE\tUNPACKED\tVERIFIED\tLAST USED")
	for _, it := range items {
		state, unpacked, used := string(it.State), "-", "-"
		if it.InUse {
			state += ", in use"
		}
		if it.TreeSize > 0 {
			unpacked = say.Bytes(it.TreeSize)
		}
		if !it.LastUsed.IsZero() {
			used = it.LastUsed.Local().Format(time.DateOnly)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", it.Version, it.Arch, state, say.Bytes(it.Size), unpacked, cmp.Or(it.Verified, "-"), used)
	}
	return w.Flush()
}
