package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// notesDir holds a file for each layout that was mounted since the boot: a container
// that still runs may have any of them.
const notesDir = "shared"

// Point is where a node mounts the shared driver; run is the run folder (paths.run).
// Containers name it in their configuration, so it is the same for all versions.
func Point(run string) string { return filepath.Join(run, "driver") }

// Folders is where the folders of the shared driver lie once more, empty: the second
// layer of the overlay of a privileged container (pve.ShareEntry).
func Folders(run string) string { return filepath.Join(run, "driver-folders") }

// Mounted is what the node has mounted for containers that start now; false when
// there is nothing.
func Mounted(run string) (Layout, bool) {
	l, err := ReadLayout(Point(run))
	return l, err == nil
}

// Lock keeps others of this node from preparing at the same time.
func Lock(ctx context.Context, run string, o lock.Options) (*lock.Lock, error) {
	if err := trust.MakeDir(run, 0o755); err != nil {
		return nil, fmt.Errorf("run folder (paths.run): %w", err)
	}
	return lock.Take(ctx, filepath.Join(run, "driver.lock"), o)
}

// Mount lays out a tree and mounts it for the containers that start from now on. The
// ones that run keep what they have. The caller holds Lock. It returns an
// lxc.ErrNoMount (wrapped) where the kernel makes no such mount.
func Mount(ctx context.Context, run, tree, node, arch string) error {
	dir := Dir(tree, node)
	// Never changed under a container that runs. One that somebody has removed is made
	// again: who has it mounted keeps what it has of the old one.
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || !inUse(run, dir) {
		if err := Build(tree, dir, arch); err != nil {
			return err
		}
	}
	if err := note(run, dir); err != nil {
		return err
	}
	if err := makeFolders(dir, Folders(run)); err != nil {
		return fmt.Errorf("make the folders of the shared driver: %w", err)
	}
	if err := trust.MakeDir(Point(run), 0o755); err != nil {
		return fmt.Errorf("mount the shared driver: %w", err)
	}
	if err := lxc.MountHere(ctx, dir, Point(run)); err != nil {
		return fmt.Errorf("mount the shared driver: %w", err)
	}
	return nil
}

// note remembers that a layout was mounted.
func note(run, dir string) error {
	notes := filepath.Join(run, notesDir)
	if err := trust.MakeDir(notes, 0o755); err != nil {
		return fmt.Errorf("note the shared driver's layout: %w", err)
	}
	if err := os.WriteFile(filepath.Join(notes, filepath.Base(dir)), nil, 0o644); err != nil {
		return fmt.Errorf("note the shared driver's layout: %w", err)
	}
	return nil
}

// makeFolders makes below to the folders of a layout. Those of an earlier one stay.
func makeFolders(dir, to string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return mkdirAll(filepath.Join(to, strings.TrimPrefix(name, dir)))
	})
}

// inUse tells whether a layout was mounted since the boot; true where that cannot be
// told.
func inUse(run, dir string) bool {
	_, err := os.Lstat(filepath.Join(run, notesDir, filepath.Base(dir)))
	return !errors.Is(err, fs.ErrNotExist)
}

// IsReady tells whether containers that start now get this version.
func IsReady(run string, v version.Driver) bool {
	l, ok := Mounted(run)
	_, err := os.Lstat(Folders(run))
	return ok && l.Version == v && err == nil
}
