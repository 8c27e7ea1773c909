package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// cacheFacts are of the folder of run files.
type cacheFacts struct {
	dir        string
	unmounted  error // it lies on a storage that is still to be mounted
	there      bool
	trust      error    // why nothing is taken from it
	locks      error    // why its locks do not lock
	fuse       string   // its file system, where that is one of FUSE whose locks may end at this node
	vgpu       []string // files of the vGPU host driver
	items      []cache.Item
	itemsError error
}

// lookCache looks at the cache of the node below the folder root.
func lookCache(root string, s config.Settings) cacheFacts {
	f := cacheFacts{dir: s.Cache.Dir}
	if f.unmounted = pve.CheckMounted(root, f.dir); f.unmounted != nil {
		return f
	}
	if _, err := os.Lstat(f.dir); errors.Is(err, fs.ErrNotExist) {
		return f // CheckDir would make it
	}
	f.there = true
	f.trust = cache.CheckDir(f.dir)
	f.locks = lock.Excludes(f.dir)
	f.fuse = lock.MayNotExclude(f.dir)
	f.vgpu, _ = filepath.Glob(filepath.Join(f.dir, "NVIDIA-*-vgpu-kvm*.run"))

	f.items, f.itemsError = (&cache.Cache{Dir: f.dir}).List()
	return f
}

// cacheChecks look at the folder of run files.
func cacheChecks() []check {
	return []check{{
		name: "cache", about: "only root can write to the cache folder, and its locks work",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			f := h.cache
			if f.unmounted != nil {
				out.add(Problem, hint.Of(f.unmounted), "%v", f.unmounted)
				return
			}
			if !f.there {
				out.add(OK, "", "the cache folder %s is not there yet: it is made when it is first used", f.dir)
				return
			}
			// Who may write to the folder, or exchange it, decides what root runs in
			// every container.
			if f.trust != nil {
				out.add(Problem, hint.Of(f.trust), "%v", f.trust)
			}
			switch {
			case f.locks != nil:
				out.add(Problem, hint.Of(f.locks), "%v", f.locks)
			case f.fuse != "":
				out.add(Warning, "for a cache that nodes share, set cache.dir to a folder on NFS, CephFS or another file system whose locks reach all nodes",
					"the cache folder %s is on FUSE (%s): its locks hold on this node, but they may not exclude another node", f.dir, f.fuse)
			}
			out.orOK("only root can write to the cache folder %s, and its locks work", f.dir)
		},
	}, {
		name: "cache-files", about: "its run files have the size and times that they had when they were verified; cache verify reads them again",
		run: checkCacheFiles,
	}}
}

func checkCacheFiles(h *hostFacts, _ *guestFacts, out *findings) {
	f := h.cache
	if !f.there {
		return
	}
	if f.itemsError != nil {
		out.add(Unknown, "", "the files of the cache cannot be read: %v", f.itemsError)
	}
	for _, file := range f.vgpu {
		out.add(Warning, "rm "+file, "%s is the vGPU host driver: it is for virtual machines and has no libraries for containers", filepath.Base(file))
	}
	for _, it := range f.items {
		name := cache.FileName(it.Version, it.Arch)
		switch {
		case it.InUse: // a run puts it there, or verifies it, just now
		case it.State == cache.Refused:
			out.add(Problem, it.Advice(), "%s is refused: %s", name, it.Damage)
		case it.State == cache.Unverified:
			out.add(Unknown, fmt.Sprintf("pve-nvidia-hook cache verify %s", it.Version), "%s was put there by hand, or has changed: it is verified before it is used", name)
		}
	}
	out.orOK("%s of the cache: unchanged since the verification", say.Count(len(f.items), "run file"))
}
