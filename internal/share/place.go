package share

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// shared is what a layout holds: all but what serves a machine and not a container.
var shared = []runfile.Capability{
	runfile.Compute, runfile.Utility, runfile.Video, runfile.Graphics, runfile.NGX, runfile.Compat32,
}

// left are types that a container without an installation has no use for: the
// installer, its parts, and the program that loads kernel modules.
var left = []string{
	"INSTALLER_BINARY", "UTILITY_BIN_SYMLINK", "INTERNAL_UTILITY_BINARY", "INTERNAL_UTILITY_LIB", "INTERNAL_UTILITY_DATA",
	"NVIDIA_MODPROBE", "NVIDIA_MODPROBE_MANPAGE",
}

// place returns where an entry of the manifest lies in a layout, "" for one that is
// left out.
func place(m runfile.Manifest, e runfile.Entry) string {
	at, ok := m.MayBeAt(e, libFolder(e))
	if name := path.Base(e.Path); !ok && e.Target == "" && strings.HasPrefix(name, "lib") && strings.Contains(name, ".so.") {
		at, ok = path.Join(libFolder(e), name), true // of a type that only a newer driver has
	}
	switch {
	case !ok, slices.Contains(left, e.Type), e.Mode&0o6000 != 0:
		return ""
	case !runfile.Has(e, shared):
		// Choose keeps it when a library needs it, such as one of GTK: that is a program's.
		return ""
	case e.Packaged(), path.Base(e.Path) == "libGLX_indirect.so.0":
		return "" // the container's own, which serves several drivers
	}
	if below, ok := strings.CutPrefix(at, record.Shared+"/"); ok {
		return below
	}
	if name, ok := strings.CutPrefix(at, "/usr/bin/"); ok {
		return path.Join(dirBin, name)
	}
	return path.Join(dirOther, at)
}

// libFolder is where a container finds the libraries of an entry's word size.
func libFolder(e runfile.Entry) string {
	if e.Compat32 {
		return path.Join(record.Shared, dirLib32)
	}
	return path.Join(record.Shared, dirLib)
}

// file is a file or link of a layout.
type file struct {
	at   string // in the layout
	from string // in the tree; "" for a link
	link string // text of a link
}

// plan reads from manifest and ELF headers what a layout holds.
func plan(tree, arch string) ([]file, Layout, error) {
	l := Layout{Arch: arch, Libs: []string{}, Links: []Link{}, Sonames: []string{}}
	f, err := os.Open(filepath.Join(tree, ".manifest"))
	if err != nil {
		return nil, l, err
	}
	defer f.Close()
	m, err := runfile.ReadManifest(f)
	if err != nil {
		return nil, l, err
	}
	l.Version = m.Version
	var files []file
	has := map[string]bool{}
	add := func(f file) {
		if !has[f.at] { // of several that an installer chooses from the first counts
			has[f.at] = true
			files = append(files, f)
		}
	}
	var libs []file
	var entries []runfile.Entry
	for _, e := range m.Entries {
		at := place(m, e)
		if at == "" {
			continue
		}
		entries = append(entries, e)
		if e.IsLink() {
			add(file{at: at, link: e.LinkText(libFolder(e))})
			continue
		}
		f := file{at: at, from: e.Path}
		add(f)
		libs = append(libs, f)
	}
	for _, f := range libs {
		dir, _, _ := strings.Cut(f.at, "/")
		if dir != dirLib && dir != dirLib32 {
			continue
		}
		if !slices.Contains(l.Libs, dir) {
			l.Libs = append(l.Libs, dir)
		}
		name, err := runfile.Soname(filepath.Join(tree, f.from))
		if err != nil {
			return nil, l, err
		}
		if name == "" {
			continue
		}
		add(file{at: path.Join(path.Dir(f.at), name), link: path.Base(f.at)})
		if path.Dir(f.at) == dir && !slices.Contains(l.Sonames, name) {
			l.Sonames = append(l.Sonames, name)
		}
	}
	for _, f := range files {
		if at := needsLink(f.at); at != "" {
			l.Links = append(l.Links, Link{at, f.at})
		}
	}
	if arch == "x86_64" {
		l.Links = append(l.Links, Link{inLibdir + hwcaps, dirLib})
	}
	needs, err := driver.Needs(tree, entries, true)
	if err != nil {
		return nil, l, err
	}
	l.Needs = slices.DeleteFunc(needs, func(name string) bool { return has[path.Join(dirLib, name)] })
	slices.Sort(l.Libs)
	slices.Sort(l.Sonames)
	slices.SortFunc(l.Links, func(a, b Link) int { return strings.Compare(a.At, b.At) })
	return files, l, nil
}

// hwcaps is a folder that the loader of glibc 2.33 and later searches without its
// cache, on every x86_64 processor of the last ten years (ld.so(8)). Libraries for
// graphics ask for others by names with the version in them (libnvidia-glsi.so.580.142),
// which no cache has before ldconfig has run with that version.
const hwcaps = "/glibc-hwcaps/x86-64-v2"

// needsLink is where programs look for a file of the layout by its path, "" where
// ldconfig's cache leads to it.
func needsLink(at string) string {
	dir, name, _ := strings.Cut(at, "/")
	sub, _, below := strings.Cut(name, "/")
	switch {
	case dir == dirBin:
		return path.Join("/usr/bin", name)
	case dir == dirOther:
		return "/" + name
	case dir == dirLib && below && (sub == "vdpau" || sub == "gbm"):
		return path.Join(inLibdir, name)
	}
	return ""
}
