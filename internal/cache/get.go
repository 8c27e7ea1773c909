package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// found is what the folder holds of one run file.
type found struct {
	there   bool  // something bears the run file's name
	meta    *Meta // nil: it was never verified here
	same    bool  // it is the very file that meta describes
	inPlace bool  // it is at least the same file, whatever it holds now
	tree    bool  // the tree is there and complete
}

// step is what comes next for a wanted run file.
type step int

const (
	use     step = iota // all is there
	fetch               // no run file
	verify              // a run file that was not verified, or has changed since
	confirm             // verified, but against no checksum, and one is required
	unpack              // no tree
	refuse              // not the file that is pinned
)

// own reports whether the file is one that was downloaded here, however it looks now.
func (f found) own() bool { return (f.inPlace || f.same) && f.meta.URL != "" }

func (c *Cache) look(p paths) found {
	var f found
	st, err := os.Lstat(p.run)
	f.there = err == nil
	if !f.there {
		return f
	}
	m, err := readMeta(p.meta)
	if err != nil {
		return f
	}
	f.meta = &m
	f.inPlace = m.changedInPlace(p.run, st)
	f.same = st.Mode().IsRegular() && m.describes(st)
	f.tree = f.same && m.whole(p.tree)
	return f
}

func decide(f found, w Want) step {
	switch {
	case !f.there:
		return fetch
	case f.meta == nil, !f.same, f.meta.Damaged != "":
		return verify
	case w.SHA256 != "" && w.SHA256 != f.meta.SHA256:
		return refuse
	case w.RequireChecksum && w.SHA256 == "" && f.meta.Verified == byHeader:
		return confirm
	case w.Tree && !f.tree:
		return unpack
	}
	return use
}

// Get returns the wanted run file, from the folder or from the first URL that
// has it. One process at a time works on a run file; the others wait, at most
// LockTimeout, and then find it. What is there already costs a few stat calls.
func (c *Cache) Get(ctx context.Context, w Want) (*Entry, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if err := CheckDir(c.Dir); err != nil {
		return nil, err
	}
	p, fetched := c.paths(w.Version, w.Arch), false
	// Between the end of the work and the shared lock a prune may come in, hence the loop.
	for range 10 {
		if decide(c.look(p), w) == use {
			e, err := c.hold(ctx, p, w)
			if err != nil || e != nil {
				if e != nil {
					e.Fetched = fetched
				}
				return e, err
			}
			continue
		}
		did, err := c.work(ctx, p, w)
		if err != nil {
			return nil, err
		}
		fetched = fetched || did
	}
	return nil, fmt.Errorf("%s in %s is removed or changed again and again", p.file(), c.Dir)
}

// hold takes the shared lock that keeps an entry from being pruned. It returns
// nil when the entry is no longer what it was.
func (c *Cache) hold(ctx context.Context, p paths, w Want) (*Entry, error) {
	l, err := c.lock(ctx, p, lock.Options{Shared: true})
	if err != nil {
		return nil, err
	}
	f := c.look(p)
	if decide(f, w) != use {
		return nil, l.Release()
	}
	e, err := entry(p, w, *f.meta)
	if err != nil {
		_ = l.Release()
		return nil, err
	}
	e.lock = l
	if m := *f.meta; w.Tree && m.Boot != "" && m.Boot != boot() {
		// The tree was counted just now: once a boot is enough.
		m.Boot = boot()
		_ = writeMeta(p.meta, m)
	}
	// The time of last use; it fails on a read-only file system, where nothing is pruned either.
	_ = os.Chtimes(p.meta, time.Now(), time.Now())
	return e, nil
}

func entry(p paths, w Want, m Meta) (*Entry, error) {
	f, err := openRegular(p.run)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := runfile.ReadHeader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.run, err)
	}
	e := &Entry{RunFile: p.run, Meta: m}
	e.Report = runfile.Report{Header: h, Size: m.Size, SHA256: m.SHA256}
	if w.SHA256 != "" {
		e.Meta.Verified = byPin
	}
	if w.Tree {
		e.Tree = p.tree
		e.Report.Files, e.Report.Unpacked = m.Files, m.Unpacked
	}
	return e, nil
}

// lock takes the lock of a run file and says for whom it waits.
func (c *Cache) lock(ctx context.Context, p paths, o lock.Options) (*lock.Lock, error) {
	o.Timeout, o.Holder = c.lockTimeout(), c.Holder
	if o.Holder == "" {
		o.Holder = "the cache"
	}
	o.OnWait = func(holder string, waited time.Duration) {
		if waited < time.Second {
			c.log().Infof("waiting for %s, held by %s", p.file(), holder)
			return
		}
		c.log().Infof("waiting for %s, held by %s (%s by now)", p.file(), holder, waited.Round(time.Second))
	}
	return lock.Take(ctx, p.lock, o)
}

// work brings the folder to where the wanted file can be used, alone.
func (c *Cache) work(ctx context.Context, p paths, w Want) (fetched bool, err error) {
	if err := c.checkWritable(); err != nil {
		return false, err
	}
	l, err := c.lock(ctx, p, lock.Options{Enough: func() bool { return decide(c.look(p), w) == use }})
	if errors.Is(err, lock.ErrEnough) {
		return false, nil // another process did it
	}
	if err != nil {
		return false, err
	}
	defer l.Release()

	f := c.look(p)
	next := decide(f, w)
	if next != use {
		c.sweep(ctx, p)
	}
	switch next {
	case fetch:
		return true, c.fetch(ctx, p, w)
	case verify, unpack:
		err := c.verify(ctx, p, w, f)
		var bad contentFault
		if errors.As(err, &bad) && f.own() {
			c.log().Warnf("%v: it was downloaded whole and has changed since, so it is fetched again", err)
			c.discard(p)
			return true, c.fetch(ctx, p, w)
		}
		return false, err
	case confirm:
		return false, c.confirm(ctx, p, w, *f.meta)
	case refuse:
		return false, hint.Errorf(fmt.Sprintf("correct driver.sha256, or remove %s so that the right file is fetched", p.run),
			"%s has the sha256 %s, but %s is pinned", p.run, f.meta.SHA256, w.SHA256)
	}
	return false, nil
}

// discard removes a run file of our own that has gone bad, with all that hangs on it.
func (c *Cache) discard(p paths) {
	_ = os.Remove(p.meta)
	_ = os.Remove(p.run)
	if err := os.Rename(p.tree, p.oldTree); err == nil || errors.Is(err, fs.ErrNotExist) {
		removeTrees(p)
	}
}
