package driver

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Files checks that every file that the manifest of the unpacked tree promises
// to a user-space installation is in the container with the size that it has in
// the tree, and every link leads where it should, and returns them.
//
// options are those that the installer is given: some of them leave files out.
func Files(c *lxc.Container, tree, arch string, options []string) ([]record.File, error) {
	m, err := manifest(tree)
	if err != nil {
		return nil, err
	}
	dir, err := libdir(c, arch, m.Version)
	if err != nil {
		return nil, err
	}
	var files []record.File
	var wrong []string
	for _, e := range m.UserSpace(options...) {
		dest, ok := m.InstalledAt(e, dir)
		if !ok {
			continue
		}
		f, problem := placed(c, tree, e, dest, e.LinkText(dir))
		if problem != "" {
			wrong = append(wrong, problem)
			continue
		}
		files = append(files, f)
	}
	if len(wrong) > 0 {
		return nil, hint.Errorf("see "+InstallerLog+" in the container; a full or read-only disk is the usual reason",
			"driver %s is not completely installed: %d of %d files are wrong, the first: %s", m.Version, len(wrong), len(wrong)+len(files), wrong[0])
	}
	for _, link := range []string{cudaLink, nvmlLink} {
		if !slices.ContainsFunc(files, func(f record.File) bool { return f.Link != "" && path.Base(f.Path) == link }) {
			return nil, hint.Errorf("report this as a bug, with the version", "the manifest of driver %s names no %s in a form that is known", m.Version, link)
		}
	}
	slices.SortFunc(files, func(a, b record.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// placed looks at one entry of the manifest in the container and says what is
// wrong with it, or "".
func placed(c *lxc.Container, tree string, e runfile.Entry, dest, link string) (record.File, string) {
	if e.IsLink() {
		target, err := c.Readlink(dest)
		if err != nil {
			return record.File{}, fmt.Sprintf("the link %s is missing", dest)
		}
		if target != link {
			return record.File{}, fmt.Sprintf("the link %s leads to %.80q instead of %s", dest, target, link)
		}
		return record.File{Path: dest, Link: target}, ""
	}
	want, err := os.Lstat(filepath.Join(tree, e.Path))
	if err != nil {
		return record.File{}, fmt.Sprintf("%s is not in the unpacked run file", e.Path)
	}
	info, err := c.Lstat(dest)
	switch {
	case err != nil:
		return record.File{}, dest + " is missing"
	case !info.Mode.IsRegular():
		return record.File{}, dest + " is no regular file"
	case info.Size != want.Size():
		return record.File{}, fmt.Sprintf("%s has %d bytes instead of %d", dest, info.Size, want.Size())
	}
	return record.File{Path: dest, Size: info.Size}, ""
}

// libdir finds the library folder that the installer has chosen.
func libdir(c *lxc.Container, arch string, v version.Driver) (string, error) {
	name := "libcuda.so." + string(v)
	dirs := libdirs(c, arch)
	for _, dir := range dirs {
		if _, err := c.Lstat(path.Join(dir, name)); err == nil {
			return dir, nil
		}
	}
	return "", hint.Errorf("see "+InstallerLog+" in the container",
		"driver %s is not installed: there is no %s in %s", v, name, strings.Join(dirs, ", "))
}

func manifest(tree string) (runfile.Manifest, error) {
	f, err := os.Open(filepath.Join(tree, ".manifest"))
	if err != nil {
		return runfile.Manifest{}, fmt.Errorf("read the run file's manifest: %w", err)
	}
	defer f.Close()
	m, err := runfile.ReadManifest(f)
	if err != nil {
		return m, fmt.Errorf("read the run file's manifest: %w", err)
	}
	return m, nil
}

// taken is how many bytes the driver takes that is removed before another is
// installed: the files of the record, and libraries that no record names, such as
// those of an installation that was killed.
func taken(c *lxc.Container, arch string, in *record.Installed) int64 {
	sizes := map[string]int64{} // -1: whatever it has
	if in != nil {
		for _, f := range in.Files {
			if f.Link == "" {
				sizes[f.Path] = f.Size
			}
		}
	}
	for _, name := range Orphans(c, arch, "") {
		if _, known := sizes[name]; !known {
			sizes[name] = -1
		}
	}
	var sum int64
	for name, size := range sizes {
		if info, err := c.Lstat(name); err == nil && info.Mode.IsRegular() && (size < 0 || info.Size == size) {
			sum += info.Size
		}
	}
	return sum
}

// Verify checks the files and then, unless how is "files", that nvidia-smi in
// the container names the wanted version. It returns what a record needs.
func Verify(ctx context.Context, c *lxc.Container, tree, arch string, options []string, v version.Driver, how string) ([]record.File, error) {
	files, err := Files(c, tree, arch, options)
	if err != nil {
		return nil, err
	}
	if how == "files" {
		return files, nil
	}
	return files, SMI(ctx, c, v)
}
