package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// cacheFacts are of the folder of run files.
type cacheFacts struct {
	dir        string
	unmounted  error // it lies on a storage that is still to be mounted
	there      bool
	trust      error // why nothing is taken from it
	readOnly   bool
	locks      error // why its locks do not lock
	free       int64 // bytes
	freeError  string
	items      []cache.Item
	itemsError string
	holders    map[string]string // of what is in use, by path
	rehash     map[string]error  // of a deep look, by path
}

// lookCache looks at the cache of the node below the folder root.
func lookCache(ctx context.Context, root string, s config.Settings, deep bool) cacheFacts {
	f := cacheFacts{dir: s.Cache.Dir, holders: map[string]string{}, rehash: map[string]error{}}
	if f.unmounted = pve.CheckMounted(root, f.dir); f.unmounted != nil {
		return f
	}
	if _, err := os.Lstat(f.dir); errors.Is(err, fs.ErrNotExist) {
		return f // CheckDir would make it
	}
	f.there = true
	f.trust = cache.CheckDir(f.dir)
	f.readOnly = unix.Access(f.dir, unix.W_OK) != nil
	if !f.readOnly {
		f.locks = lock.Excludes(f.dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.dir, &st); err != nil {
		f.freeError = err.Error()
	}
	f.free = int64(min(st.Bavail, 1<<40)) * st.Bsize

	c := &cache.Cache{Dir: f.dir}
	items, err := c.List()
	f.items = items
	f.itemsError = text(err)
	for _, it := range f.items {
		if it.InUse {
			name := strings.TrimSuffix(cache.FileName(it.Version, it.Arch), ".run")
			f.holders[it.Path] = lock.Holder(filepath.Join(f.dir, name+".lock"))
		} else if deep && it.State != cache.Partial {
			_, err := c.Verify(ctx, it.Version, it.Arch)
			f.rehash[it.Path] = err
		}
	}
	return f
}

// checkCache judges the cache folder and what is in it.
func checkCache(f cacheFacts, h hostFacts, guests []guestFacts) []Finding {
	if f.unmounted != nil {
		return one("cache", Problem, hint.Of(f.unmounted), "%v", f.unmounted)
	}
	if !f.there {
		return one("cache", OK, "", "the cache folder %s is not there yet: it is made when it is first used", f.dir)
	}
	all := checkCacheFolder(f)
	all = append(all, checkCacheRoom(f, h, guests)...)
	return append(all, checkCacheFiles(f)...)
}

// checkCacheFolder: who may write to the folder, or exchange it, decides what
// root runs in every container.
func checkCacheFolder(f cacheFacts) []Finding {
	out := findings{check: "cache"}
	if f.trust != nil {
		out.add(Problem, hint.Of(f.trust), "%v", f.trust)
	}
	switch {
	case f.readOnly:
		out.add(Problem, "make it writable (are you root?), or set cache.dir to another folder", "the cache folder %s cannot be written, nor its locks be tried", f.dir)
	case f.locks != nil:
		out.add(Problem, hint.Of(f.locks), "%v", f.locks)
	}
	return out.orOK("the cache folder %s is root's alone, and its locks work", f.dir)
}

// roomForFile is what a run file and its unpacked tree take, in bytes: 0.4 and 1.6 GB.
const roomForFile = 2000_000_000

func checkCacheRoom(f cacheFacts, h hostFacts, guests []guestFacts) []Finding {
	const check = "cache-room"
	if f.freeError != "" {
		return one(check, Unknown, "", "the free room of the cache folder %s cannot be seen: %s", f.dir, f.freeError)
	}
	have := map[version.Driver]bool{}
	for _, it := range f.items {
		have[it.Version] = have[it.Version] || it.State == cache.Ready && it.TreeSize > 0
	}
	for _, g := range guests {
		if v := g.wanted(h); v != "" && !have[v] && f.free < roomForFile {
			return one(check, Warning, "pve-nvidia-hook cache prune, or set cache.dir to a larger disk",
				"driver %s is not in the cache, takes about %s there, and %s has %s free", v, say.Bytes(roomForFile), f.dir, say.Bytes(f.free))
		}
	}
	return one(check, OK, "", "the cache folder has %s free", say.Bytes(f.free))
}

func checkCacheFiles(f cacheFacts) []Finding {
	out := findings{check: "cache-files"}
	if f.itemsError != "" {
		out.add(Unknown, "", "what the cache holds cannot be seen: %s", f.itemsError)
	}
	for _, it := range f.items {
		verify := fmt.Sprintf("pve-nvidia-hook cache verify %s", it.Version)
		name := cache.FileName(it.Version, it.Arch)
		if holder := f.holders[it.Path]; holder != "" {
			out.add(Warning, "wait until it ends, then look again", "%s is in use just now: %s", name, holder)
			continue
		}
		if err, looked := f.rehash[it.Path]; looked {
			if err != nil {
				out.add(Problem, or(hint.Of(err), verify), "%v", err)
			}
			continue
		}
		switch it.State {
		case cache.Refused:
			out.add(Problem, it.Advice(), "%s is refused: %s", name, it.Damage)
		case cache.Unverified:
			out.add(Unknown, verify, "%s was put there by hand, or has changed: it is verified before it is used", name)
		}
	}
	return out.orOK("the %d run files of the cache are as they were when they were verified", len(f.items))
}
