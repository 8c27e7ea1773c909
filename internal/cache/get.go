package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// found is what the folder holds of one run file.
type found struct {
	there bool  // the run file
	meta  *Meta // nil: it was never verified here
	same  bool  // it is the file that meta describes
	tree  bool  // the tree is there and complete
}

// step is what comes next for a wanted run file.
type step int

const (
	use     step = iota // all is there
	fetch               // no run file
	verify              // a run file that was not verified, or has changed since
	confirm             // verified without a checksum, and one is required
	unpack              // no tree
	refuse              // not the file that is pinned
)

func (c *Cache) look(p paths) found {
	var f found
	st, err := os.Lstat(p.run)
	if err != nil {
		return f
	}
	f.there = true
	if m, err := readMeta(p.meta); err == nil {
		f.meta = &m
		f.same = m.describes(st)
		f.tree = f.same && m.whole(p.tree)
	}
	return f
}

func decide(f found, w Want) step {
	switch {
	case !f.there:
		return fetch
	case !f.same:
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
// has it. One process at a time works on a run file. The others wait, at most
// LockTimeout, and then find it.
func (c *Cache) Get(ctx context.Context, w Want) (*Entry, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if err := CheckDir(c.Dir); err != nil {
		return nil, err
	}
	p, fetched := c.paths(w.Version, w.Arch), false
	// A prune may come between the work and the shared lock, hence the loop.
	for range 10 {
		if decide(c.look(p), w) == use {
			e, err := c.hold(ctx, p, w)
			if e != nil {
				e.Fetched = fetched
			}
			if e != nil || err != nil {
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
	// The time of last use. It cannot be set on a read-only file system, where
	// nothing is pruned either.
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
	e := &Entry{RunFile: p.run, Meta: m, Report: runfile.Report{Header: h, Size: m.Size, SHA256: m.SHA256}}
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
	o.Timeout, o.Holder = or(c.LockTimeout, 15*time.Minute), or(c.Holder, "the cache")
	o.OnWait = func(holder string, waited time.Duration) {
		if waited < time.Second {
			c.log().Infof("waiting for %s, held by %s", p.file(), holder)
			return
		}
		c.log().Infof("still waiting for %s, held by %s (%s)", p.file(), holder, waited.Round(time.Second))
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
		bad := c.verify(ctx, p, w, f)
		if !isContent(bad) {
			return false, bad
		}
		c.log().Warnf("%v; fetching it", bad)
		if err := c.fetch(ctx, p, w); err != nil {
			return false, hint.Wrap(all{bad, err}, hint.Of(err))
		}
		return true, nil
	case confirm:
		return false, c.confirm(ctx, p, w, *f.meta)
	case refuse:
		return false, hint.Errorf(fmt.Sprintf("correct driver.sha256, or remove %s so that the right file is fetched", p.run),
			"%s has the sha256 %s, but %s is pinned", p.run, f.meta.SHA256, w.SHA256)
	}
	return false, nil
}
