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
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// localFault marks an error of this node, such as a full or read-only disk:
// another URL does not help.
type localFault struct{ error }

func (e localFault) Unwrap() error { return e.error }

// isContent reports whether the file itself is wrong: another URL may have a
// better one.
func isContent(err error) bool { return errors.Is(err, runfile.ErrContent) }

// check reads a run file from its first byte to its last, compares it with sum
// ("": its header alone) and, with w.Tree, unpacks it into p.newTree. On an error
// nothing of the tree is left. It returns how the file was verified, and what its
// tree holds.
func (c *Cache) check(ctx context.Context, f *os.File, p paths, w Want, sum, how string) (Meta, error) {
	removeTrees(p)
	st, err := f.Stat()
	if err != nil {
		return Meta{}, err
	}
	dir := ""
	if w.Tree {
		dir = p.newTree
	}
	m := Meta{Verified: how, At: time.Now().UTC().Truncate(time.Second)}
	rep, err := runfile.Unpack(ctx, io.NewSectionReader(f, 0, st.Size()), dir,
		runfile.Want{Version: w.Version, Arch: w.Arch, SHA256: sum})
	if err == nil && w.Tree {
		m.Files, m.Unpacked, err = count(dir)
	}
	if err != nil {
		removeTrees(p)
	}
	switch {
	case err == nil:
		m.SHA256 = rep.SHA256
		if rep.SHA256 == w.SHA256 {
			m.Verified = byPin
		}
		return m, nil
	case ctx.Err() != nil:
		return m, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	case isContent(err):
		if from := map[string]string{byPin: "driver.sha256", bySum: "its .sha256sum"}[how]; from != "" && strings.Contains(err.Error(), "sha256 is ") {
			err = fmt.Errorf("%w (from %s)", err, from)
		}
		return m, err
	}
	return m, localFault{explainSpace(err, c.Dir)}
}

// verify reads a run file that is in the folder already: one that was put there
// by hand, that has changed, or whose tree is missing. It sets a wrong one aside.
func (c *Cache) verify(ctx context.Context, p paths, w Want, f found) error {
	file, err := openRegular(p.run)
	if err != nil {
		return hint.Errorf("put a copy of the file there instead, or use: pve-nvidia-hook cache add FILE", "%s is refused: %w", p.run, err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if uid, ok := trust.Owner(st); !ok {
		return hint.Errorf("chown root:root "+p.run, "%s is refused: it belongs to uid %d, who could change it after it is verified", p.run, uid)
	}
	// Nobody else may open it for writing from here on.
	if st.Mode().Perm()&0o022 != 0 {
		if err := file.Chmod(0o644); err != nil {
			return fmt.Errorf("make %s writable for root only: %w", p.run, err)
		}
	}
	// What it was when it was verified, or the checksum beside it.
	var sum, how string
	if f.meta != nil {
		sum, how = f.meta.SHA256, f.meta.Verified
	} else {
		sum, how, err = sumBeside(p.sum, p.file())
	}
	if err == nil && sum == "" && w.SHA256 == "" && w.RequireChecksum {
		sum, err = c.anySum(ctx, p, w)
		how = bySum
	}
	if err == nil && w.Tree {
		err = c.checkRoom(unpackedSize(st.Size()), "unpacking "+p.file())
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	start := time.Now()
	m, err := c.check(ctx, file, p, w, sum, how)
	now, e := os.Lstat(p.run)
	if e != nil || !os.SameFile(st, now) || st.Size() != now.Size() || !st.ModTime().Equal(now.ModTime()) {
		removeTrees(p)
		return errors.Join(hint.Errorf("wait until it is copied", "%s changed while it was verified", p.run), e)
	}
	if isContent(err) {
		return c.setAside(p, err)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if f.meta != nil { // the same bytes as before
		m.URL = f.meta.URL
		if !w.Tree {
			m.Files, m.Unpacked = f.meta.Files, f.meta.Unpacked
		}
	}
	if err := c.publish(p, m, false, w.Tree); err != nil {
		return fmt.Errorf("keep %s: %w", p.run, err)
	}
	did := "verified"
	if w.Tree {
		did = "verified and unpacked"
	}
	c.log().Infof("%s %s in %.1f s (%s, %s)", did, p.file(), time.Since(start).Seconds(), say.Bytes(st.Size()), m.Verified)
	return nil
}

// sumBeside reads the checksum that lies beside a file, if there is one.
func sumBeside(path, file string) (sum, how string, err error) {
	text, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", byHeader, nil
	}
	if err == nil {
		sum, err = parseSum(text, file)
	}
	if err != nil {
		return "", "", hint.Wrap(fmt.Errorf("%s: %w", path, err),
			"download the .sha256sum again, or remove it: then only the file's own header proves that it is complete")
	}
	return sum, bySum, nil
}

// confirm looks for a published checksum of a file that was verified without one.
func (c *Cache) confirm(ctx context.Context, p paths, w Want, m Meta) error {
	sum, how, err := sumBeside(p.sum, p.file())
	if err == nil && sum == "" {
		how = bySum
		sum, err = c.anySum(ctx, p, w)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if sum != m.SHA256 {
		return hint.Errorf("remove it so that the right file is fetched", "%s is refused: its sha256 is %s, published is %s", p.run, m.SHA256, sum)
	}
	m.Verified, m.At = how, time.Now().UTC().Truncate(time.Second)
	return writeJSON(p.meta, m)
}

// setAside renames a run file that was found wrong, writes the reason beside it,
// and returns the reason.
func (c *Cache) setAside(p paths, why error) error {
	reason := fmt.Sprintf("%s: %v", time.Now().UTC().Format(time.RFC3339), why)
	err := writeFile(p.reason, []byte(reason+"\n"))
	if err == nil {
		err = os.Rename(p.run, p.refused)
	}
	if err == nil {
		err = os.RemoveAll(p.meta) // there may be none
	}
	if err != nil {
		return fmt.Errorf("%s is refused: %w; it cannot be set aside: %w", p.run, why, err)
	}
	return hint.Errorf(adviceOnRefused, "%s is refused: %w (renamed to %s)", p.run, why, p.base+endRefused)
}

const adviceOnRefused = "the next start fetches it again; or give the right file: pve-nvidia-hook cache add FILE"

// publish gives verified files their final names, the run file from p.part when
// fetched, the tree from p.newTree when tree, and writes the metadata last.
func (c *Cache) publish(p paths, m Meta, fetched, tree bool) error {
	// Without metadata what is left of a run that is killed here is verified again.
	if err := os.RemoveAll(p.meta); err != nil {
		return err
	}
	if m.Files == 0 || tree {
		// What has the name now is of another run file, or not ours at all.
		if err := os.Rename(p.tree, p.oldTree); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if fetched {
		if err := os.Rename(p.part, p.run); err != nil {
			return err
		}
	}
	if tree {
		if err := os.Rename(p.newTree, p.tree); err != nil {
			return err
		}
	}
	st, err := os.Lstat(p.run)
	if err != nil {
		return err
	}
	m.describe(st)
	if err := syncDir(c.Dir); err != nil {
		return err
	}
	// Before the metadata: once that is written nothing looks for them.
	for _, name := range []string{p.part, p.origin, p.refused, p.reason} {
		_ = os.Remove(name)
	}
	removeTrees(p)
	return explainSpace(writeJSON(p.meta, m), c.Dir)
}

// unpackedSize is the room in bytes that a tree of a run file takes: 1,809 MB of
// 463 MB in 610.57.04 and 1,559 MB of 400 MB in 575.57.08, with something to spare.
func unpackedSize(run int64) int64 { return run * 9 / 2 }

// Verify reads a run file of the folder again from its first byte to its last,
// and looks whether its tree is complete. It sets a wrong file aside.
func (c *Cache) Verify(ctx context.Context, v version.Driver, arch string) (Item, error) {
	w := Want{Version: v, Arch: arch}
	if err := w.check(); err != nil {
		return Item{}, err
	}
	if err := CheckDir(c.Dir); err != nil {
		return Item{}, err
	}
	p := c.paths(v, arch)
	var err error
	if f := c.look(p); f.there {
		err = c.verifyAgain(ctx, p, w, f.same)
	}
	it, ok := c.item(v, arch)
	switch {
	case !ok && err == nil:
		err = fmt.Errorf("%s: %w", p.run, fs.ErrNotExist)
	case err == nil && it.State == Refused:
		err = hint.Errorf(adviceOnRefused, "%s is refused: %s", p.run, it.Damage)
	}
	return it, err
}

func (c *Cache) verifyAgain(ctx context.Context, p paths, w Want, ready bool) error {
	// Reading a ready file disturbs no run that uses it.
	l, err := c.lock(ctx, p, lock.Options{Shared: ready})
	if err != nil {
		return err
	}
	defer l.Release()
	f := c.look(p)
	if f.same != ready {
		return fmt.Errorf("%s changed meanwhile", p.run)
	}
	if !ready {
		return c.verify(ctx, p, w, f)
	}
	file, err := openRegular(p.run)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = c.check(ctx, file, p, w, f.meta.SHA256, f.meta.Verified)
	if isContent(err) {
		return c.setAside(p, err)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", p.run, err)
	}
	if f.meta.Files > 0 && !f.tree {
		return hint.Errorf("nothing needs doing: it is unpacked again when it is needed", "the tree %s is incomplete", p.tree)
	}
	return nil
}
