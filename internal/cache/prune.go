package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Prunable returns what Prune removes: partial downloads, refused files, and of
// the others all but the keep ones that were used last and those that are wanted
// (wanted may be nil).
func Prunable(items []Item, keep int, wanted func(version.Driver) bool) (gone []Item) {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b Item) int { return b.LastUsed.Compare(a.LastUsed) })
	for _, it := range items {
		if it.State == Partial || it.State == Refused {
			gone = append(gone, it)
			continue
		}
		if keep--; keep < 0 && (wanted == nil || !wanted(it.Version)) {
			gone = append(gone, it)
		}
	}
	return gone
}

// Prune removes what is Prunable and not in use, and returns what it removed.
func (c *Cache) Prune(ctx context.Context, keep int, wanted func(version.Driver) bool) ([]Item, error) {
	if _, err := os.Lstat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := CheckDir(c.Dir); err != nil {
		return nil, err
	}
	if err := c.checkWritable(); err != nil {
		return nil, err
	}
	c.sweep(ctx, paths{})
	items, err := c.List()
	if err != nil {
		return nil, err
	}
	var gone []Item
	var errs []error
	for _, it := range Prunable(items, keep, wanted) {
		err := c.Remove(ctx, it)
		switch {
		case errors.Is(err, lock.ErrBusy):
			c.log().Infof("%s is in use and stays", FileName(it.Version, it.Arch))
		case err != nil:
			errs = append(errs, err)
		default:
			gone = append(gone, it)
		}
	}
	c.sweepLocks(ctx)
	return gone, errors.Join(errs...)
}

// sweepLocks removes lock files that have nothing to lock and no holder.
func (c *Cache) sweepLocks(ctx context.Context) {
	names, _ := os.ReadDir(c.Dir)
	beside := map[string]int{}
	for _, d := range names {
		if v, arch, _, ok := parseName(d.Name()); ok {
			beside[base(v, arch)]++
		}
	}
	for _, d := range names {
		v, arch, ending, ok := parseName(d.Name())
		if !ok || ending != endLock || beside[base(v, arch)] > 1 {
			continue
		}
		if l, err := lock.Take(ctx, c.paths(v, arch).lock, lock.Options{}); err == nil {
			_ = l.Remove()
		}
	}
}

// Remove removes an item of List, its tree and all beside them. One that is in use,
// or is in another state by now, stays: lock.ErrBusy.
func (c *Cache) Remove(ctx context.Context, it Item) error {
	p := c.paths(it.Version, it.Arch)
	l, err := lock.Take(ctx, p.lock, lock.Options{Holder: "its removal from the cache"})
	if err != nil {
		return fmt.Errorf("remove %s: %w", p.file(), err)
	}
	if now, _ := c.item(it.Version, it.Arch); now.State != it.State {
		_ = l.Release()
		return fmt.Errorf("remove %s: %w meanwhile", p.file(), lock.ErrBusy)
	}
	removeTrees(p)
	// The metadata goes first: what is left of a removal that is killed does not
	// pass for verified. The tree gets the name by which a later run removes it.
	err = os.RemoveAll(p.meta)
	if e := os.Rename(p.tree, p.oldTree); err == nil && !errors.Is(e, fs.ErrNotExist) {
		err = e
	}
	for _, name := range []string{p.run, p.part, p.origin, p.refused, p.reason, p.sum, p.oldTree} {
		if err == nil {
			err = os.RemoveAll(name)
		}
	}
	if err != nil {
		_ = l.Release()
		return fmt.Errorf("remove from the cache: %w", err)
	}
	return l.Remove()
}
