// Package metrics keeps a file for the text file collector of Prometheus' node
// exporter: how the last run on each container of this node went, and which
// driver versions are where.
package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/replace"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// Run is what is told of the last run on a container.
type Run struct {
	VMID      int
	Ended     time.Time
	OK        bool // all is as it should be, or is being made so in the background
	Duration  time.Duration
	Wanted    version.Driver // "": none, or it cannot be told; then Installed is not told either
	Installed version.Driver // "": none
	Shared    bool           // Installed is the node's driver, mounted in the container
}

// File is the metrics of a node.
type File struct {
	Path string // "" writes nothing; neither does a folder that is not there
	Lock string // a file beside which nobody else may write
	Runs string // the folder with a folder for each container of which runs are kept
	// Containers is the folder with the configuration of each container that is
	// now on this node; it need not be there.
	Containers string

	wait time.Duration // for Lock; 0: lockLimit
}

const (
	lockLimit = 10 * time.Second // a writer holds it for less than a millisecond, but many may wait on a busy node
	sizeLimit = 4 << 20          // bytes; 500 containers take 180 kB
	// sweepAfter is how long lines of containers that have gone may stay: looking
	// for them at each of many starts would take longer than all else.
	sweepAfter = time.Minute
)

// Update puts a run into the file and leaves what it tells of other containers.
// module is the version of the loaded kernel module, "" when there is none;
// known says whether that could be told. The file is replaced in one step, so
// that the collector, which reads at any time, never reads half of it.
func (f File) Update(r Run, module version.Driver, known bool) error {
	if f.Path == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(f.Path)); errors.Is(err, fs.ErrNotExist) {
		return nil // no node exporter is here
	}
	if err := f.update(r, module, known); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

func (f File) update(r Run, module version.Driver, known bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(f.wait, lockLimit))
	defer cancel()
	lock := flock.New(f.Lock)
	if _, err := lock.TryLockContext(ctx, 2*time.Millisecond); err != nil {
		return fmt.Errorf("wait for %s: %w", f.Lock, err)
	}
	defer lock.Close()
	text, at, err := read(f.Path)
	if err != nil {
		return err
	}
	n := parse(text)
	if known {
		n.module = module
	}
	n.runs[r.VMID] = lineOf(r)
	if time.Since(at) > sweepAfter {
		f.sweep(n, r.VMID)
	}
	// The collector reads what ends in .prom, and so never this; it is another
	// user, hence the mode.
	tmp := filepath.Join(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".new")
	return replace.File(f.Path, tmp, n.text(), 0o644)
}

// read returns the file and when it was written; a missing file is empty and
// old. The folder may belong to the user that the exporter runs as: a link, a
// FIFO or something huge in it must not lead this program anywhere.
func read(name string) ([]byte, time.Time, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > sizeLimit {
		return nil, time.Time{}, nil
	}
	text := make([]byte, info.Size())
	n, err := io.ReadFull(file, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, time.Time{}, err
	}
	return text[:n], info.ModTime(), nil
}

// sweep drops containers of which no runs are kept any more or that are not on
// this node any more, except one that is here.
func (f File) sweep(n *node, here int) {
	kept, err := vmid.In(f.Runs, "")
	if err != nil {
		return
	}
	on, err := vmid.In(f.Containers, ".conf")
	for id := range n.runs {
		if id != here && (!slices.Contains(kept, id) || err == nil && !slices.Contains(on, id)) {
			delete(n.runs, id)
		}
	}
}
