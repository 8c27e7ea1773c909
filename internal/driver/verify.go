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

// Files checks that every file that a job promises is in the container with the
// size that it has in the tree, and that every link leads where it should. It returns
// them: those of the manifest whose place is known, and those that the installer has
// noted.
func Files(c *lxc.Container, j Job) ([]record.File, error) {
	m, err := j.Manifest()
	if err != nil {
		return nil, err
	}
	dir, err := libdir(c, libdirs(c, j.arch()), m.Version)
	if err != nil {
		return nil, err
	}
	found := check{c: c, tree: j.Tree, m: m}
	found.fixed(dir, m.UserSpace(false, j.Options()...))
	if slices.Contains(j.capabilities(), runfile.Compat32) {
		narrow := m.UserSpace(true, j.Options()...)
		dir, err := libdir(c, libdirs32, m.Version)
		if err != nil || len(narrow) == 0 {
			return nil, hint.Errorf("set the container up for 32-bit programs first (on Debian: dpkg --add-architecture i386, then install libc6:i386), or take compat32 out of capabilities",
				"the 32-bit libraries of driver %s are wanted but not installed", m.Version)
		}
		found.fixed(dir, narrow)
	}
	found.noted()
	if len(found.wrong) > 0 {
		return nil, hint.Errorf("see "+InstallerLog+" in the container; a full or read-only disk is the usual reason",
			"driver %s is not completely installed: %d of %d files are wrong, the first: %s", m.Version, len(found.wrong), len(found.wrong)+len(found.files), found.wrong[0])
	}
	for _, link := range []string{cudaLink, nvmlLink} {
		if !slices.ContainsFunc(found.files, func(f record.File) bool { return f.Link != "" && path.Base(f.Path) == link }) {
			return nil, hint.Errorf("report this as a bug, with the version", "the manifest of driver %s names no %s in a form that is known", m.Version, link)
		}
	}
	if lacks, err := Lacks(c, j, found.files); err != nil {
		return nil, err
	} else if len(lacks.Own) > 0 {
		return nil, hint.Errorf("report this as a bug, with the version and the capabilities; capabilities = [\"all\"] works around it",
			"driver %s is not completely installed: %s is needed and not there", m.Version, lacks.Own[0])
	}
	slices.SortFunc(found.files, func(a, b record.File) int { return strings.Compare(a.Path, b.Path) })
	return found.files, nil
}

// check is what a look at the files has found so far.
type check struct {
	c     *lxc.Container
	tree  string
	m     runfile.Manifest
	files []record.File
	wrong []string
}

// fixed looks at the entries whose place is known.
func (k *check) fixed(dir string, entries []runfile.Entry) {
	for _, e := range entries {
		dest, ok := k.m.InstalledAt(e, dir)
		if !ok {
			continue
		}
		f, problem := placed(k.c, k.tree, e, dest, e.LinkText(dir))
		if problem != "" {
			k.wrong = append(k.wrong, problem)
			continue
		}
		k.files = append(k.files, f)
	}
}

// slim are folders that people empty to make a container smaller.
var slim = []string{"/usr/share/doc/", "/usr/share/man/"}

// noted looks at the other files that the installer has noted: their place depends on
// the container. The notes are claims, so only names count that the manifest has too.
func (k *check) noted() {
	seen := map[string]bool{}
	for _, f := range k.files {
		seen[f.Path] = true
	}
	known := map[string][]runfile.Entry{}
	for _, e := range k.m.Entries {
		known[path.Base(e.Path)] = append(known[path.Base(e.Path)], e)
	}
	fits := func(name string) bool {
		return !seen[name] && len(known[path.Base(name)]) > 0 &&
			!slices.ContainsFunc(slim, func(dir string) bool { return strings.HasPrefix(name, dir) })
	}
	notes := readNoted(k.c)
	for _, name := range notes.files {
		if !fits(name) {
			continue
		}
		var problem string
		for _, e := range known[path.Base(name)] { // one for each word size
			if e.IsLink() {
				continue
			}
			var f record.File
			if f, problem = placed(k.c, k.tree, e, name, ""); problem == "" {
				k.files = append(k.files, f)
				break
			}
		}
		if problem != "" {
			k.wrong = append(k.wrong, problem)
		}
	}
	for _, l := range notes.links {
		to := l.Link
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(l.Path), to)
		}
		if !fits(l.Path) || missing(k.c, to) {
			continue // ldconfig removes links to libraries that lead nowhere
		}
		if target, err := k.c.Readlink(l.Path); err != nil || target != l.Link {
			k.wrong = append(k.wrong, fmt.Sprintf("the link %s does not lead to %.80q", l.Path, l.Link))
			continue
		}
		k.files = append(k.files, l)
	}
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
		return record.File{}, dest + " is not a regular file"
	case info.Size != want.Size() && e.Type != "DOT_DESKTOP": // which the installer rewrites
		return record.File{}, fmt.Sprintf("%s has %d bytes instead of %d", dest, info.Size, want.Size())
	}
	return record.File{Path: dest, Size: info.Size}, ""
}

// libdir finds the library folder that the installer has chosen.
func libdir(c *lxc.Container, dirs []string, v version.Driver) (string, error) {
	name := "libcuda.so." + string(v)
	for _, dir := range dirs {
		if has(c, path.Join(dir, name)) {
			return dir, nil
		}
	}
	return "", hint.Errorf("see "+InstallerLog+" in the container",
		"driver %s is not installed: there is no %s in %s", v, name, strings.Join(dirs, ", "))
}

// taken is the size in bytes of the driver that is removed before another is
// installed: the files of the record, and libraries that no record names, such as
// those of a killed installation.
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
// the container names the wanted version. It returns what a record needs. Files
// with an error are in place, and only nvidia-smi has failed: to install them
// again would not help.
func Verify(ctx context.Context, c *lxc.Container, j Job, how string) ([]record.File, error) {
	files, err := Files(c, j)
	if err != nil {
		return nil, err
	}
	if how == "files" {
		return files, nil
	}
	return files, SMI(ctx, c, j.Version())
}
