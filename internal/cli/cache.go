package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func (a *app) cache() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "list, fetch, add, verify and prune run files",
		Long: `Look after the folder of run files that all containers share (cache.dir). The
hook fills it by itself; these commands are for filling it ahead of time, for
nodes without Internet, and for tidying up.`,
		Args: known,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.cacheList(), a.cacheFetch(), a.cacheAdd(), a.cacheVerify(), a.cachePrune())
	return c
}

// openCache returns the cache that the configuration names, with the settings
// of the node.
func (a *app) openCache(holder string) (*cache.Cache, config.Settings, *config.Config, error) {
	conf, err := a.load()
	if err != nil {
		return nil, config.Settings{}, nil, err
	}
	s, err := conf.For(0)
	if err != nil {
		return nil, s, nil, err
	}
	c := &cache.Cache{Dir: s.Cache.Dir, LockTimeout: s.Cache.LockTimeout, Log: a.log, Holder: holder}
	if isTerminal(os.Stderr) {
		c.Terminal = os.Stderr
	}
	if c.Proxy, err = pve.HTTPProxy(a.host.Root); err != nil {
		a.log.Warnf("%v", err)
	}
	return c, s, conf, nil
}

// fillCache is openCache for who puts something in.
func (a *app) fillCache(holder string) (*cache.Cache, config.Settings, error) {
	c, s, _, err := a.openCache(holder)
	if err != nil {
		return nil, s, err
	}
	return c, s, pve.CheckMounted(a.host.Root, c.Dir)
}

func (a *app) cacheFetch() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "fetch VERSION",
		Short: "fetch, verify and unpack a run file ahead of time",
		Long: `Fetch the run file of a driver version from the configured URLs into the cache,
verify and unpack it, so that the next installation finds it there. VERSION
"host" is that of the loaded kernel module. A file that is there already is not
fetched again.`,
		Example: "  pve-nvidia-hook cache fetch 580.76.05\n  pve-nvidia-hook cache fetch host",
		Args:    args(1, 1, "a driver version"),
		RunE: func(c *cobra.Command, words []string) error {
			v, err := a.versionArg(words[0])
			if err != nil {
				return err
			}
			store, s, err := a.fillCache("cache fetch")
			if err != nil {
				return err
			}
			arch, err := host.Arch()
			if err != nil {
				return err
			}
			want := cache.Want{Version: v, Arch: arch, URLs: s.Driver.URLs, SHA256: pin(s, v), RequireChecksum: s.Driver.RequireChecksum, Tree: true}
			if words[0] == "host" { // another version may be for later, or for another node
				want.NoFetch = a.host.VGPU()
			}
			entry, err := store.Get(c.Context(), want)
			if err != nil {
				return stopped(c.Context(), err, "fetch "+cache.FileName(v, arch), "the same command goes on where this one ended")
			}
			defer entry.Release()
			if asJSON {
				item, err := find(store, v, arch)
				if err != nil {
					return err
				}
				return say.JSON(c.OutOrStdout(), item)
			}
			did := "is there already"
			if entry.Fetched {
				did = "was fetched"
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s: %s, verified by %s\n", entry.RunFile, did, say.Bytes(entry.Meta.Size), cache.Proof(entry.Meta.Verified))
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// pin returns the pinned checksum where it may be that of version v. Which one the
// host will have is not asked: a file can be brought before the module changes.
func pin(s config.Settings, v version.Driver) string {
	if s.Driver.Version == "host" || s.Driver.Version == string(v) {
		return s.Driver.SHA256
	}
	return ""
}

// versionArg reads a version, "host" being the loaded module's.
func (a *app) versionArg(word string) (version.Driver, error) {
	if word != "host" {
		v, err := version.Parse(say.Clean(word, 40))
		if err != nil {
			return "", usage{err}
		}
		return v, nil
	}
	v, err := a.host.Module()
	if err == nil && v == "" {
		err = errors.New("no NVIDIA kernel module is loaded on this host; name the version")
	}
	return v, err
}

// stopped says in a word that Ctrl-C was the end of it.
func stopped(ctx context.Context, err error, what, then string) error {
	if errors.Is(ctx.Err(), context.Canceled) && errors.Is(err, context.Canceled) {
		return hint.Errorf(then, "%s: interrupted", what)
	}
	return err
}

// find returns the cache's item of a version.
func find(c *cache.Cache, v version.Driver, arch string) (cache.Item, error) {
	items, err := c.List()
	if err != nil {
		return cache.Item{}, err
	}
	at := slices.IndexFunc(items, func(it cache.Item) bool { return it.Version == v && it.Arch == arch })
	if at < 0 {
		return cache.Item{}, fmt.Errorf("%s is not in the cache %s", cache.FileName(v, arch), c.Dir)
	}
	items[at].InUse = false // only by this command
	return items[at], nil
}

func (a *app) cacheAdd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "add FILE",
		Short: "verify a run file and put a copy into the cache",
		Long: `Verify a run file from elsewhere and put a copy into the cache. Its version and
architecture are read from its header. Its checksum is driver.sha256 (unless
driver.version names another version), else that in FILE.sha256sum if that is
there; without one the checksum in the file's own header tells whether it is
complete, not where it comes from.`,
		Example: "  pve-nvidia-hook cache add /root/NVIDIA-Linux-x86_64-580.76.05.run",
		Args:    args(1, 1, "a file"),
		RunE: func(c *cobra.Command, words []string) error {
			store, s, err := a.fillCache("cache add")
			if err != nil {
				return err
			}
			h, err := cache.HeaderOf(words[0])
			if err != nil {
				return err
			}
			want := cache.Want{Version: h.Version, Arch: h.Arch, SHA256: pin(s, h.Version), RequireChecksum: s.Driver.RequireChecksum, Tree: true}
			item, err := store.Add(c.Context(), words[0], want)
			if err != nil {
				return stopped(c.Context(), err, "add "+words[0], "nothing was kept; run the same command again")
			}
			if asJSON {
				return say.JSON(c.OutOrStdout(), item)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %s, verified by %s\n", item.Path, say.Bytes(item.Size), cache.Proof(item.Verified))
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print JSON")
}
