package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// mountWait is how long to wait for the storage of the cache. After a boot pvestatd
// mounts it within some ten seconds.
const mountWait = time.Minute

// fetch makes the run file and its unpacked tree present in the cache, and keeps
// them there until the entry is released.
func (r *run) fetch(ctx context.Context) (*cache.Entry, error) {
	runtime.SetDefaultGOMAXPROCS() // the snippet allows one processor: too few to unpack
	var entry *cache.Entry
	err := whileAlive(ctx, r.initLives, func(ctx context.Context) error {
		var err error
		entry, err = r.get(ctx)
		return err
	})
	switch {
	case errors.Is(err, errGone):
		r.trace.Ended = EndedStopped
	case err != nil && ctx.Err() != nil:
		err = hint.Wrap(interrupted{err}, fmt.Sprintf("the next start, or pve-nvidia-hook apply %d, does it again", r.trace.VMID))
	}
	return entry, err
}

// initLives reports whether the container's init process is still there. Another
// process may have its number by now: then the run file is fetched all the same.
func (r *run) initLives() bool {
	return r.init == 0 || !errors.Is(unix.Kill(r.init, 0), unix.ESRCH)
}

func (r *run) get(ctx context.Context) (*cache.Entry, error) {
	s := r.settings
	if err := r.mounted(ctx, s.Cache.Dir); err != nil {
		return nil, err
	}
	c := cache.Cache{
		Dir:         s.Cache.Dir,
		LockTimeout: s.Cache.LockTimeout,
		Proxy:       proxy(r.Host.Root, r.Log),
		Log:         r.Log,
		Holder:      fmt.Sprintf("container %d", r.trace.VMID),
	}
	if r.Terminal {
		c.Terminal = os.Stderr
	}
	return c.Get(ctx, cache.Want{
		Version:         r.trace.Plan.Wanted,
		Arch:            r.trace.Facts.Host.Arch,
		URLs:            s.Driver.URLs,
		SHA256:          s.Driver.SHA256,
		RequireChecksum: s.Driver.RequireChecksum,
		Tree:            true,
		NoFetch:         r.Host.VGPU(),
	})
}

// mounted waits for a cache folder on a storage that Proxmox VE is yet to mount.
func (r *run) mounted(ctx context.Context, dir string) error {
	ends, said := time.Now().Add(mountWait), false
	for {
		err := pve.CheckMounted(r.Host.Root, dir)
		if err == nil || time.Now().After(ends) {
			return err
		}
		if !said {
			r.Log.Infof("waiting for the storage of the cache: %v", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
