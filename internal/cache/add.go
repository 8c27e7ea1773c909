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

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// notRunFile is the advice about a file that is none of NVIDIA's.
const notRunFile = "give a run file of NVIDIA's as it was downloaded, such as NVIDIA-Linux-x86_64-580.76.05.run"

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
		if path, ok := err.(*fs.PathError); ok {
			err = path.Err // the caller names the file
		}
		return nil, nil, runfile.Header{}, hint.Wrap(err, notRunFile)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var h runfile.Header
	if err == nil {
		h, err = runfile.ReadHeader(f)
	}
	if err == nil && h.VGPUHost(name) {
		f.Close()
		return nil, nil, h, hint.Errorf("take the ordinary driver of that version, without -vgpu-kvm in its name", "it is the vGPU host driver, which is for virtual machines and has no libraries for containers")
	}
	if err != nil {
		f.Close()
		return nil, nil, h, hint.Wrap(err, notRunFile)
	}
	return f, st, h, nil
}

// Add verifies a run file from elsewhere and puts a copy into the folder (one
// that shares its blocks, where the file system can). Version and Arch of w may be
// empty: then the file's header says them. Its checksum is w.SHA256, else the one
// in FILE.sha256sum if that is there.
func (c *Cache) Add(ctx context.Context, name string, w Want) (Item, error) {
	it, err := c.add(ctx, name, w)
	if hint.Of(err) == "" && isContent(err) {
		err = hint.Wrap(err, "download it again")
	}
	if err != nil {
		return it, fmt.Errorf("add %s: %w", name, err)
	}
	return it, nil
}

func (c *Cache) add(ctx context.Context, name string, w Want) (Item, error) {
	from, st, h, err := openRunFile(name)
	if err != nil {
		return Item{}, err
	}
	defer from.Close()
	w.Version, w.Arch = or(w.Version, h.Version), or(w.Arch, h.Arch)
	if err := errors.Join(w.check(), h.Check(runfile.Want{Version: w.Version, Arch: w.Arch})); err != nil {
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
	had := c.look(p)
	if there, err := os.Lstat(p.run); err == nil && os.SameFile(st, there) {
		err := c.verify(ctx, p, w, had)
		it, _ := c.item(w.Version, w.Arch)
		return it, err
	}
	sum, how := w.SHA256, byPin
	if sum == "" {
		if sum, how, err = sumBeside(name+".sha256sum", p.file()); err != nil {
			return Item{}, err
		}
	}
	if sum == "" && w.RequireChecksum {
		return Item{}, hint.Errorf("put its "+p.file()+".sha256sum beside it, or pin driver.sha256", "a checksum is required and there is none")
	}
	if err := c.roomFor(st.Size(), 0, w.Tree, p); err != nil {
		return Item{}, err
	}
	m, err := c.copyIn(ctx, from, p, w, sum, how)
	if err != nil {
		_ = os.Remove(p.part)
		if isContent(err) && hint.Of(err) == "" && how == byPin {
			err = hint.Wrap(err, "driver.sha256 pins another file: correct it, or give the file that it is the checksum of")
		} else if isContent(err) && hint.Of(err) == "" && how == bySum {
			err = hint.Wrap(err, "download the file and its .sha256sum again, or remove the .sha256sum if it is of another file")
		}
		return Item{}, err
	}
	if had.meta != nil && had.meta.SHA256 == m.SHA256 { // what was proved of the same bytes holds
		m.URL = had.meta.URL
		if how == byHeader {
			m.Verified = had.meta.Verified
		}
		if had.same {
			c.log().Infof("%s was there already and is identical", p.file())
		}
	}
	if err := c.publish(p, m, true, w.Tree); err != nil {
		return Item{}, err
	}
	it, _ := c.item(w.Version, w.Arch)
	it.InUse = false // only by this call
	return it, nil
}

func (c *Cache) copyIn(ctx context.Context, from *os.File, p paths, w Want, sum, how string) (Meta, error) {
	_ = os.Remove(p.origin) // a partial download that lies there is given up
	_ = os.Remove(p.part)
	to, err := os.OpenFile(p.part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return Meta{}, err
	}
	defer to.Close()
	if err := to.Chmod(0o644); err != nil {
		return Meta{}, err
	}
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil {
		if _, err := io.Copy(to, readUntil{ctx, io.NewSectionReader(from, 0, maxFileSize+1)}); err != nil {
			return Meta{}, explainSpace(err, c.Dir)
		}
	}
	m, err := c.check(ctx, to, p, w, sum, how) // the copy, for that is what is kept
	if err == nil {
		err = explainSpace(to.Sync(), c.Dir)
	}
	return m, err
}

// readUntil reads until ctx ends.
type readUntil struct {
	ctx context.Context
	io.Reader
}

func (r readUntil) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
