package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// CheckDir makes a cache folder when it is missing and refuses one in which
// somebody else than root (or than this user) could exchange what root will run.
func CheckDir(folder string) error {
	if !filepath.IsAbs(folder) {
		return hint.Errorf("set cache.dir to an absolute path", "the cache folder %q is not an absolute path", folder)
	}
	err := trust.MakeDir(folder, 0o755)
	if err != nil && hint.Of(err) == "" {
		err = hint.Wrap(err, "make it by hand, mount what it lies on, or set cache.dir to another folder")
	}
	if err != nil {
		return fmt.Errorf("cache folder %s: %w", folder, err)
	}
	return nil
}

// checkWritable refuses a read-only folder, or one whose locks do not exclude,
// before the first change.
func (c *Cache) checkWritable() error {
	if err := unix.Access(c.Dir, unix.W_OK); err != nil {
		return hint.Errorf("make it writable, or set cache.dir to another folder",
			"cache folder %s cannot be written: %w", c.Dir, err)
	}
	if err := lock.Excludes(c.Dir); err != nil {
		return explainSpace(err, c.Dir)
	}
	return nil
}

// checkRoom refuses to write need bytes when the disk of the cache has less room.
func (c *Cache) checkRoom(need int64, what string) error {
	free, err := free(c.Dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", c.Dir, err)
	}
	if need <= free {
		return nil
	}
	return localFault{hint.Errorf("free some room (pve-nvidia-hook cache prune), or set cache.dir to a larger disk",
		"%s needs %s in %s, which has %s free", what, say.Bytes(need), c.Dir, say.Bytes(free))}
}

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// explainSpace adds the free room to an error of a full disk. Other errors, and
// nil, it returns as they are.
func explainSpace(err error, dir string) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	room := ""
	if n, e := free(dir); e == nil {
		room = ", which has " + say.Bytes(n) + " free"
	}
	return hint.Wrap(fmt.Errorf("no room in the cache folder %s%s: %w", dir, room, err),
		"free some room (pve-nvidia-hook cache prune), or set cache.dir to a larger disk")
}

// sweep removes what killed runs have left: of the run file whose lock is held all
// but the partial download, which is resumed; of the others what is abandoned.
func (c *Cache) sweep(ctx context.Context, own paths) {
	names, err := os.ReadDir(c.Dir)
	if err != nil {
		return
	}
	others := map[string]paths{}
	for _, d := range names {
		v, arch, ending, ok := parseName(d.Name())
		switch {
		case !ok:
			c.sweepStray(d, own)
		case base(v, arch) == own.base:
		case ending == endNewTree, ending == endOldTree, (ending == endPart || ending == endOrigin) && old(d, 7*24*time.Hour):
			others[base(v, arch)] = c.paths(v, arch)
		}
	}
	removeTrees(own)
	for _, p := range others {
		l, err := lock.Take(ctx, p.lock, lock.Options{})
		if err != nil {
			continue // somebody works on it
		}
		removeTrees(p)
		if st, err := os.Lstat(p.part); err != nil || time.Since(st.ModTime()) > 7*24*time.Hour {
			_ = os.Remove(p.part)
			_ = os.Remove(p.origin)
		}
		_ = l.Release()
		c.log().Debugf("removed what an interrupted run has left of %s", p.file())
	}
}

// sweepStray removes a temporary file of a run that was killed: one of the run file
// whose lock is held (".NVIDIA-...json" and digits) at once, others, also of the lock
// test, after an hour.
func (c *Cache) sweepStray(d fs.DirEntry, own paths) {
	n := d.Name()
	mine := own.base != "" && slices.ContainsFunc([]string{endMeta, endOrigin, endReason}, func(end string) bool {
		return strings.HasPrefix(n, "."+own.base+end)
	})
	ours := strings.HasPrefix(n, "."+prefix) || strings.HasPrefix(n, ".locktest-")
	if d.Type().IsRegular() && (mine || ours && old(d, time.Hour)) {
		_ = os.Remove(filepath.Join(c.Dir, n))
	}
}

func old(d fs.DirEntry, age time.Duration) bool {
	st, err := d.Info()
	return err == nil && time.Since(st.ModTime()) > age
}

func removeTrees(p paths) {
	_ = os.RemoveAll(p.newTree)
	_ = os.RemoveAll(p.oldTree)
}

// syncDir makes renames in the folder outlive a loss of power.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err // EINVAL: file systems that cannot sync a folder
	}
	return nil
}
