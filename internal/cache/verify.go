package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// contentFault: the file is not what it should be. Another URL may have a better one.
type contentFault struct{ error }

func (e contentFault) Unwrap() error { return e.error }

// why is what is wrong with the content, without the name of the file.
func (e contentFault) why() error {
	var inner contentFault
	if errors.As(errors.Unwrap(e.error), &inner) {
		return inner.why()
	}
	return e.error
}

// localFault: this node is at fault (disk full, read-only). No other URL helps.
type localFault struct{ error }

func (e localFault) Unwrap() error { return e.error }

// pass reads a run file once, checks it and, with tree, unpacks it into p.newTree.
// On an error nothing of the tree is left.
func (c *Cache) pass(ctx context.Context, r io.Reader, p paths, w runfile.Want, tree bool) (runfile.Report, error) {
	removeTrees(p)
	if !tree {
		return c.read(ctx, r, "", w)
	}
	rep, err := c.read(ctx, r, p.newTree, w)
	if err == nil {
		err = os.Chmod(p.newTree, 0o755)
	}
	if err != nil {
		_ = os.RemoveAll(p.newTree)
	}
	return rep, err
}

// read is runfile.Unpack with its errors sorted by who is at fault.
func (c *Cache) read(ctx context.Context, r io.Reader, dir string, w runfile.Want) (runfile.Report, error) {
	rep, err := runfile.Unpack(ctx, r, dir, w)
	switch {
	case err == nil:
		return rep, nil
	case ctx.Err() != nil:
		return rep, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	case errors.Is(err, runfile.ErrContent):
		return rep, contentFault{err}
	}
	return rep, localFault{explainSpace(err, c.Dir)}
}

// whose says where the checksum is from that a file does not have.
func whose(err error, from string) error {
	if !strings.Contains(err.Error(), "sha256 is ") { // it was not the checksum
		return err
	}
	return fmt.Errorf("%w (from %s)", err, from)
}

func runWant(w Want, sum string, size int64) runfile.Want {
	return runfile.Want{Version: w.Version, Arch: w.Arch, SHA256: sum, Size: max(size, 0)}
}

// verify reads a run file that is in the folder already, once: one that was put
// there by hand, that has changed, or whose tree is missing. One that is not
// what is wanted is left alone.
func (c *Cache) verify(ctx context.Context, p paths, w Want, f found) error {
	st, err := os.Lstat(p.run)
	if err != nil {
		return err
	}
	if err := acceptable(p.run, st); err != nil {
		return err
	}
	file, err := openRegular(p.run)
	if err != nil {
		return err
	}
	defer file.Close()
	if st, err = file.Stat(); err != nil {
		return err
	}
	if err := acceptable(p.run, st); err != nil {
		return err
	}
	// Nobody else may open it for writing from here on.
	if st.Mode().Perm()&0o022 != 0 {
		if err := file.Chmod(0o644); err != nil {
			return fmt.Errorf("close %s to others: %w", p.run, err)
		}
	}
	sum, how, url, err := c.expected(ctx, p, w, f)
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if w.Tree {
		if err := c.checkRoom(unpackedSize(st.Size()), "unpacking "+p.file()); err != nil {
			return err
		}
	}
	start := time.Now()
	rep, err := c.pass(ctx, file, p, runWant(w, sum, st.Size()), w.Tree)
	if err != nil {
		var bad contentFault
		if errors.As(err, &bad) {
			return contentFault{hint.Errorf(adviceOnDamage(p.run, ""), "%s is refused: %w", p.run, err)}
		}
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	now, err := os.Lstat(p.run)
	if err != nil || !os.SameFile(st, now) || st.Size() != now.Size() || !st.ModTime().Equal(now.ModTime()) {
		removeTrees(p)
		return errors.Join(fmt.Errorf("%s changed while it was verified", p.run), err)
	}

	m := Meta{SHA256: rep.SHA256, Verified: how, URL: url, At: time.Now().UTC().Truncate(time.Second)}
	if f.meta != nil && f.meta.SHA256 == rep.SHA256 {
		m.Files, m.Unpacked, m.TreeInode, m.TreeMade, m.Boot = f.meta.Files, f.meta.Unpacked, f.meta.TreeInode, f.meta.TreeMade, f.meta.Boot
		m.URL = f.meta.URL // the same bytes, so what was proved of them holds
		if how == byHeader {
			m.Verified = f.meta.Verified
		}
	}
	if err := c.publish(p, m, false, w.Tree); err != nil {
		return fmt.Errorf("keep %s: %w", p.run, err)
	}
	did := "verified"
	if w.Tree {
		did = "verified and unpacked"
	}
	c.log().Infof("%s %s in %.1f s (%s, %s)", did, p.file(), time.Since(start).Seconds(), say.Bytes(rep.Size), how)
	return nil
}

// acceptable refuses a run file whose content somebody else could still change.
func acceptable(path string, st fs.FileInfo) error {
	if !st.Mode().IsRegular() {
		return hint.Errorf("put a copy of the file there instead, or use: pve-nvidia-hook cache add FILE",
			"%s is refused: it is not a regular file (%s)", path, st.Mode().Type())
	}
	if uid, ok := trust.Owner(st); !ok {
		return hint.Errorf("chown root:root "+path, "%s is refused: it belongs to uid %d, who could change it after it is verified", path, uid)
	}
	return nil
}

// expected finds the checksum for a file of the folder: the pinned one, the one
// it had when it was downloaded, the one beside it, and only when one is required
// the one that a URL offers.
func (c *Cache) expected(ctx context.Context, p paths, w Want, f found) (sum, how, url string, err error) {
	if f.own() || f.same && f.meta.SHA256 != "" { // which holds for one that was found wrong too
		sum, how, url = f.meta.SHA256, f.meta.Verified, f.meta.URL
	}
	if w.SHA256 != "" {
		return w.SHA256, byPin, url, nil
	}
	if sum != "" && !(w.RequireChecksum && how == byHeader) {
		return sum, how, url, nil
	}
	text, err := readSmall(p.sum, sumMost)
	if err == nil {
		sum, err := parseSum(text, p.file())
		if err != nil {
			return "", "", "", hint.Wrap(fmt.Errorf("%s: %w", p.sum, err), sumAdvice)
		}
		return sum, bySum, url, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", "", "", err
	}
	if w.RequireChecksum {
		sum, err := c.anySum(ctx, p, w)
		return sum, bySum, url, err
	}
	return sum, byHeader, url, nil
}

// confirm looks for a published checksum of a file that was verified without one.
func (c *Cache) confirm(ctx context.Context, p paths, w Want, m Meta) error {
	sum, err := c.anySum(ctx, p, w)
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if sum != m.SHA256 {
		return hint.Errorf("remove it so that the right file is fetched", "%s is refused: its sha256 is %s, published is %s", p.run, m.SHA256, sum)
	}
	m.Verified, m.At = bySum, time.Now().UTC().Truncate(time.Second)
	return writeMeta(p.meta, m)
}

// publish gives verified files their final names, the run file from p.part when
// fetched, the tree from p.newTree when tree, and writes the metadata last.
func (c *Cache) publish(p paths, m Meta, fetched, tree bool) error {
	if fetched {
		if err := os.Rename(p.part, p.run); err != nil {
			return err
		}
	}
	st, err := os.Lstat(p.run)
	if err != nil {
		return err
	}
	m.describe(p.run, st)
	if tree {
		if m.Files, m.Unpacked, err = count(p.newTree); err != nil {
			return err
		}
	}
	if tree || m.TreeInode == 0 {
		// What bears the name now is of another run file, or not ours at all.
		if err := os.Rename(p.tree, p.oldTree); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if tree {
		if err := os.Rename(p.newTree, p.tree); err != nil {
			return err
		}
		st, err := os.Lstat(p.tree)
		if err != nil {
			return err
		}
		m.TreeInode, m.TreeMade, m.Boot = inode(st), st.ModTime().UnixNano(), boot()
	}
	if err := syncDir(c.Dir); err != nil {
		return err
	}
	// Before the metadata: with it there is nothing left to do, and so to sweep.
	_ = os.Remove(p.origin)
	if !fetched {
		_ = os.Remove(p.part)
	}
	removeTrees(p)
	if err := writeMeta(p.meta, m); err != nil {
		return explainSpace(err, c.Dir)
	}
	return nil
}

// unpackedSize is the room that a tree of a run file takes: 1,809 MB of 463 MB
// in 610.57.04 and 1,559 MB of 400 MB in 575.57.08, with something to spare.
func unpackedSize(run int64) int64 { return run * 9 / 2 }
