package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// Add verifies a run file from elsewhere and puts a copy into the folder (one
// that shares its blocks, where the file system can). Version and Arch of w may be empty: then
// the file's header says them. Its checksum is w.SHA256, else the one in
// FILE.sha256sum if that is there.
func (c *Cache) Add(ctx context.Context, name string, w Want) (Item, error) {
	it, err := c.add(ctx, name, w)
	if err != nil {
		return it, fmt.Errorf("add %s: %w", name, err)
	}
	return it, nil
}

// unnamed leaves out of an error of the file system what its reader knows by then.
func unnamed(err error, name string) error {
	if path, ok := err.(*fs.PathError); ok && path.Path == name {
		return path.Err
	}
	return err
}

// notRunFile is what to do about a file that is none of NVIDIA's.
const notRunFile = "give a run file of NVIDIA's as it was downloaded, such as NVIDIA-Linux-x86_64-580.76.05.run"

// sumAdvice is what to do about a .sha256sum that cannot be read.
const sumAdvice = "download the .sha256sum again, or remove it: then the file's own header has to vouch for it"

// HeaderOf reads the header of a run file that is to be added: the checksum that
// is wanted of it may depend on the version.
func HeaderOf(name string) (runfile.Header, error) {
	f, _, h, err := openRunFile(name)
	if err != nil {
		return h, fmt.Errorf("add %s: %w", name, err)
	}
	return h, f.Close()
}

func openRunFile(name string) (*os.File, fs.FileInfo, runfile.Header, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, runfile.Header{}, hint.Wrap(unnamed(err, name), notRunFile)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = hint.Errorf(notRunFile, "not a regular file")
	}
	var h runfile.Header
	if err == nil {
		h, err = runfile.ReadHeader(f)
		err = hint.Wrap(err, notRunFile)
	}
	if err != nil {
		f.Close()
		return nil, nil, h, err
	}
	return f, st, h, nil
}

func (c *Cache) add(ctx context.Context, name string, w Want) (Item, error) {
	from, st, h, err := openRunFile(name)
	if err != nil {
		return Item{}, err
	}
	defer from.Close()
	if w.Version == "" {
		w.Version = h.Version
	}
	if w.Arch == "" {
		w.Arch = h.Arch
	}
	if err := w.check(); err != nil {
		return Item{}, err
	}
	if err := CheckDir(c.Dir); err != nil {
		return Item{}, err
	}
	if err := c.checkWritable(); err != nil {
		return Item{}, err
	}
	if v, arch, ending, ok := parseName(filepath.Base(name)); ok && ending == endRun && (v != h.Version || arch != h.Arch) {
		c.log().Warnf("%s is not what its name says: by its header it is driver %s for %s", name, h.Version, h.Arch)
	}
	p := c.paths(w.Version, w.Arch)
	l, err := c.lock(ctx, p, lock.Options{})
	if err != nil {
		return Item{}, err
	}
	defer l.Release()
	c.sweep(ctx, p)
	if there, err := os.Lstat(p.run); err == nil && os.SameFile(st, there) {
		err := c.verify(ctx, p, w, c.look(p))
		it, _ := c.item(w.Version, w.Arch)
		return it, err
	}
	sum, how, err := sumBeside(name, p, w)
	if err != nil {
		return Item{}, err
	}
	if sum == "" && w.RequireChecksum {
		return Item{}, hint.Errorf("put its "+p.file()+".sha256sum beside it, or pin driver.sha256", "a checksum is required and there is none")
	}
	if err := c.roomFor(st.Size(), 0, w.Tree, p); err != nil {
		return Item{}, err
	}
	m, err := c.copyIn(ctx, from, p, w, runWant(w, sum, st.Size()))
	if err != nil {
		_ = os.Remove(p.part)
		removeTrees(p)
		var bad contentFault
		if errors.As(err, &bad) && hint.Of(err) == "" {
			switch how {
			case byPin:
				err = hint.Wrap(whose(err, "driver.sha256"), "driver.sha256 pins another file: correct it, or give the file that it is the checksum of")
			case bySum:
				err = hint.Wrap(whose(err, name+".sha256sum"), "download the file and its .sha256sum again, or remove the .sha256sum if it is of another file")
			}
		}
		return Item{}, err
	}
	m.Verified = how
	if had := c.look(p); had.meta != nil && had.meta.SHA256 == m.SHA256 {
		// The same bytes, so what was proved of them holds.
		m.URL = had.meta.URL
		if how == byHeader {
			m.Verified = had.meta.Verified
		}
		if had.same && had.meta.Damaged == "" {
			c.log().Infof("%s was there already, the same to the last byte", p.file())
		}
	}
	if err := c.publish(p, m, true, w.Tree); err != nil {
		return Item{}, err
	}
	it, _ := c.item(w.Version, w.Arch)
	it.InUse = false // only by this call
	return it, nil
}

func (c *Cache) copyIn(ctx context.Context, from *os.File, p paths, w Want, want runfile.Want) (Meta, error) {
	_ = os.Remove(p.origin) // a partial download that stands there is at an end
	_ = os.Remove(p.part)
	to, err := os.OpenFile(p.part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return Meta{}, err
	}
	defer to.Close()
	if err := to.Chmod(0o644); err != nil {
		return Meta{}, err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return Meta{}, err
	}
	// What is verified is what is kept: the clone, or the bytes on their way into the copy.
	var r io.Reader = to
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil {
		r = io.TeeReader(from, to)
	}
	rep, err := c.pass(ctx, r, p, want, w.Tree)
	if err != nil {
		return Meta{}, err
	}
	if err := to.Sync(); err != nil {
		return Meta{}, explainSpace(err, c.Dir)
	}
	return Meta{SHA256: rep.SHA256, At: time.Now().UTC().Truncate(time.Second)}, nil
}

func sumBeside(name string, p paths, w Want) (sum, how string, err error) {
	if w.SHA256 != "" {
		return w.SHA256, byPin, nil
	}
	text, err := readSmall(name+".sha256sum", sumMost)
	if errors.Is(err, fs.ErrNotExist) {
		return "", byHeader, nil
	}
	if err == nil {
		sum, err = parseSum(text, p.file())
	}
	if err != nil {
		return "", "", hint.Wrap(fmt.Errorf("%s.sha256sum: %w", name, err), sumAdvice)
	}
	return sum, bySum, nil
}
