// Package share gives containers the driver without an installation. The host mounts
// one layout of the kernel module's version, read-only. A line in the configuration
// of a container mounts that in it before its init starts. In the container there is a
// set-up that leads programs to it and that is the same for all versions.
package share

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Folders of a layout. Files of other places lie below dirOther by their absolute path.
const (
	dirLib    = "lib"
	dirLib32  = "lib32"
	dirBin    = "bin"
	dirOther  = "share"
	indexFile = "layout.json"
	maxIndex  = 1 << 20
)

// inLibdir stands in Link.At for the library folder of a container.
const inLibdir = "{libdir}"

// Layout is what layout.json tells of the layout beside it.
type Layout struct {
	Version version.Driver `json:"version"`
	Arch    string         `json:"arch"`
	Libs    []string       `json:"libs"` // folders of libraries
	Links   []Link         `json:"links"`
	Sonames []string       `json:"sonames"` // names by which programs ask for the libraries, sorted
	Needs   []string       `json:"needs"`   // libraries of others that these need, sorted
}

// Link leads from a place where programs look to a file of the layout.
type Link struct {
	At string `json:"at"` // absolute, or below inLibdir
	To string `json:"to"` // in the layout
}

// Digest names what a container's set-up depends on. It is the same for versions
// that need the same set-up.
func (l Layout) Digest() string {
	l.Version = ""
	data, err := json.Marshal(l)
	if err != nil {
		return "" // cannot be: all of it is plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// ReadLayout reads the layout.json of a layout, which must be root's.
func ReadLayout(dir string) (Layout, error) {
	var l Layout
	data, err := trust.ReadFile(filepath.Join(dir, indexFile), maxIndex)
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		return Layout{}, fmt.Errorf("read the layout of the shared driver: %w", err)
	}
	return l, nil
}

// Build makes the layout of an unpacked run file at dir by hard links, in one
// step. A layout of that tree which is there already stays. Both must lie on one file
// system.
func Build(tree, dir, arch string) error {
	if err := build(tree, dir, arch); err != nil {
		return fmt.Errorf("lay out the driver for sharing at %s: %w", dir, err)
	}
	return nil
}

func build(tree, dir, arch string) error {
	files, l, err := plan(tree, arch)
	if err != nil {
		return err
	}
	if whole(tree, dir, files, l) {
		return nil
	}
	made := dir + endNew
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	if err := fill(tree, made, files, l); err != nil {
		return errors.Join(err, os.RemoveAll(made))
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(made, dir) // what a power loss leaves of it is not whole
}

// fill makes a layout in a new folder.
func fill(tree, dir string, files []file, l Layout) error {
	for _, f := range files {
		at := filepath.Join(dir, f.at)
		if err := mkdirAll(filepath.Dir(at)); err != nil {
			return err
		}
		if f.from == "" {
			if err := os.Symlink(f.link, at); err != nil {
				return err
			}
			continue
		}
		if st, err := os.Lstat(filepath.Join(tree, f.from)); err != nil || !st.Mode().IsRegular() {
			return errors.Join(err, fmt.Errorf("%s is no file of the unpacked run file", f.from))
		}
		if err := os.Link(filepath.Join(tree, f.from), at); err != nil {
			if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) {
				err = hint.Wrap(err, "the file system of the cache has no hard links: set cache.dir to another folder, or install the driver in the containers (pve-nvidia-hook enable VMID --share=false)")
			}
			return err
		}
	}
	data, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return err
	}
	index := filepath.Join(dir, indexFile)
	return errors.Join(os.WriteFile(index, append(data, '\n'), 0o644), os.Chmod(index, 0o644))
}

// mkdirAll makes folders that everybody may enter, whatever the umask says.
func mkdirAll(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755))
}

// whole tells whether dir is the layout of this very tree.
func whole(tree, dir string, files []file, l Layout) bool {
	had, err := ReadLayout(dir)
	if err != nil || had.Version != l.Version || had.Digest() != l.Digest() {
		return false
	}
	for _, f := range files {
		if f.from == "" {
			if text, err := os.Readlink(filepath.Join(dir, f.at)); err != nil || text != f.link {
				return false
			}
			continue
		}
		a, err := os.Lstat(filepath.Join(tree, f.from))
		b, err2 := os.Lstat(filepath.Join(dir, f.at))
		if err != nil || err2 != nil || !os.SameFile(a, b) {
			return false
		}
	}
	return true
}

// endNew is the ending of a layout that is being made.
const endNew = ".new"

// Dir is where a node lays out a tree. Each node of a cluster that shares the cache
// has its own, so that no other takes it away.
func Dir(tree, node string) string { return tree + ".share." + node }

// Prune removes the layouts of this node whose tree is gone and that were not mounted
// since the boot, and what a broken-off Build has left.
func Prune(cacheDir, run, node string) error {
	var errs []error
	for _, ending := range []string{Dir("", node), Dir("", node) + endNew} {
		dirs, err := filepath.Glob(filepath.Join(cacheDir, "NVIDIA-Linux-*"+ending))
		errs = append(errs, err)
		for _, dir := range dirs {
			_, err := os.Lstat(strings.TrimSuffix(dir, ending))
			if errors.Is(err, fs.ErrNotExist) && !inUse(run, dir) {
				errs = append(errs, os.RemoveAll(dir))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove layouts of the shared driver: %w", err)
	}
	return nil
}
