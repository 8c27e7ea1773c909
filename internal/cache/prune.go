package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Prunable sorts out what Prune removes: all but the keep ones that were used
// last and those that are wanted (wanted may be nil), and partial downloads. One
// that is no longer what was verified takes no place among the ones kept: it
// goes when it can be fetched again, but a wanted one only when it is known to be
// damaged, for it may just have been touched. What was put there by hand or by Add
// and has gone bad is odd: this program does not throw away what it did not fetch.
func Prunable(items []Item, keep int, wanted func(version.Driver) bool) (gone, odd []Item) {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b Item) int { return b.LastUsed.Compare(a.LastUsed) })
	for _, it := range items {
		needed := wanted != nil && wanted(it.Version)
		switch bad := it.State == Damaged || it.State == Refused || it.State == Changed; {
		case it.State == Partial:
			gone = append(gone, it)
		case bad && it.URL == "":
			odd = append(odd, it)
		case it.State == Changed && needed:
		case bad:
			gone = append(gone, it)
		default:
			if keep--; keep < 0 && !needed {
				gone = append(gone, it)
			}
		}
	}
	return gone, odd
}

// NameOdd says of what Prune leaves though it has gone bad.
func NameOdd(l Log, odd []Item) {
	for _, it := range odd {
		then := fmt.Sprintf("remove it, or see: pve-nvidia-hook cache verify %s", it.Version)
		if it.State == Refused {
			then = "rm " + it.Path
		}
		l.Warnf("%s is %s and stays, for it was put there by hand or by cache add: %s", it.Path, it.State, then)
	}
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
	items, odd := Prunable(items, keep, wanted)
	NameOdd(c.log(), odd)
	var gone []Item
	var errs []error
	for _, it := range items {
		err := c.Remove(ctx, it.Version, it.Arch)
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

// Remove removes a run file, its tree and all beside them. One in use stays: lock.ErrBusy.
func (c *Cache) Remove(ctx context.Context, v version.Driver, arch string) error {
	w := Want{Version: v, Arch: arch}
	if err := w.check(); err != nil {
		return err
	}
	p := c.paths(v, arch)
	l, err := lock.Take(ctx, p.lock, lock.Options{Holder: "its removal from the cache"})
	if err != nil {
		return fmt.Errorf("remove %s: %w", p.file(), err)
	}
	// The metadata first: what is left of a removal that is killed is never taken for verified.
	for _, name := range []string{p.meta, p.run, p.part, p.origin, p.sum} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			_ = l.Release()
			return fmt.Errorf("remove from the cache: %w", err)
		}
	}
	removeTrees(p)
	if err := os.Rename(p.tree, p.oldTree); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = l.Release()
		return fmt.Errorf("remove from the cache: %w", err)
	}
	if err := os.RemoveAll(p.oldTree); err != nil {
		_ = l.Release()
		return fmt.Errorf("remove from the cache: %w", err)
	}
	return l.Remove()
}

// Verify reads a run file of the folder again from its first byte to its last,
// and looks whether its tree is complete. A file found wrong is marked, so that
// it is not used again as it is, and is left there, whoever put it there. One that
// was never verified is now.
func (c *Cache) Verify(ctx context.Context, v version.Driver, arch string) (Item, error) {
	w := Want{Version: v, Arch: arch}
	if err := w.check(); err != nil {
		return Item{}, err
	}
	if err := CheckDir(c.Dir); err != nil {
		return Item{}, err
	}
	p := c.paths(v, arch)
	err := c.verifyAgain(ctx, p, w)
	it, ok := c.item(v, arch)
	if !ok && err == nil {
		err = fmt.Errorf("%s: %w", p.run, fs.ErrNotExist)
	}
	return it, err
}

func (c *Cache) verifyAgain(ctx context.Context, p paths, w Want) error {
	f := c.look(p)
	if !f.there {
		return nil
	}
	if f.meta == nil || !f.same || f.meta.Damaged != "" {
		l, err := c.lock(ctx, p, lock.Options{})
		if err != nil {
			return err
		}
		defer l.Release()
		f = c.look(p)
		err = c.verify(ctx, p, w, f)
		var bad contentFault
		if errors.As(err, &bad) {
			return c.markDamaged(p, f.marked(), bad.why())
		}
		return err
	}
	// Reading disturbs no run that uses the file.
	l, err := c.lock(ctx, p, lock.Options{Shared: true})
	if err != nil {
		return err
	}
	defer l.Release()
	if f = c.look(p); !f.same {
		return fmt.Errorf("%s changed meanwhile", p.run)
	}
	file, err := openRegular(p.run)
	if err != nil {
		return err
	}
	defer file.Close()
	m := *f.meta
	_, err = c.read(ctx, file, "", runWant(w, m.SHA256, m.Size))
	var bad contentFault
	if errors.As(err, &bad) {
		return c.markDamaged(p, m, bad.why())
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if m.TreeInode != 0 {
		files, bytes, err := count(p.tree)
		if err != nil || files != m.Files || bytes != m.Unpacked {
			had := m
			m.TreeInode = 0
			return errors.Join(hint.Errorf("nothing needs doing: it is unpacked again when it is needed",
				"%s is incomplete: %d files with %d bytes instead of %d with %d", p.tree, files, bytes, had.Files, had.Unpacked), c.remark(p, m))
		}
	}
	return nil
}

// marked is the metadata that a mark of damage goes into: what is known of the
// file, and nothing when another one has taken its place.
func (f found) marked() Meta {
	switch {
	case f.same, f.meta != nil && f.own():
		return *f.meta
	case f.inPlace:
		m := *f.meta
		m.SHA256 = "" // of what it held before
		return m
	}
	return Meta{}
}

// markDamaged notes that the run file, as it is now, is not what m says of it.
func (c *Cache) markDamaged(p paths, m Meta, why error) error {
	st, err := os.Lstat(p.run)
	if err != nil {
		return errors.Join(why, err)
	}
	m.describe(p.run, st)
	m.Damaged = fmt.Sprintf("%s: %v", time.Now().UTC().Format(time.RFC3339), why)
	state := Damaged
	if m.URL == "" {
		state = Refused
	}
	return errors.Join(hint.Errorf(adviceOnDamage(p.run, m.URL), "%s is %s: %w", p.run, state, why), c.remark(p, m))
}

// Advice is what to do about an Item that is damaged or refused.
func (it Item) Advice() string { return adviceOnDamage(it.Path, it.URL) }

func adviceOnDamage(run, url string) string {
	if url != "" {
		return "nothing needs doing: it is fetched again when it is needed"
	}
	return "rm " + run + ", and the next start fetches it again; or give the right one: pve-nvidia-hook cache add FILE"
}

// remark writes metadata without counting as a use.
func (c *Cache) remark(p paths, m Meta) error {
	st, err := os.Lstat(p.meta)
	if errors.Is(err, fs.ErrNotExist) {
		st, err = os.Lstat(p.run) // as it was listed until now
	}
	if err != nil {
		return err
	}
	if err := writeMeta(p.meta, m); err != nil {
		return err
	}
	return os.Chtimes(p.meta, st.ModTime(), st.ModTime())
}
