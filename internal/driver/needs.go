package driver

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// opened are libraries of others that the driver's graphics opens at run time,
// beside those that its ELF headers name (libX11 and libXext): libglvnd's, which
// programs are linked to, and the Vulkan loader.
var opened = []string{"libEGL.so.1", "libGL.so.1", "libvulkan.so.1", "libX11.so.6", "libXext.so.6"}

// Lacking are what the installed libraries need and the container does not have.
type Lacking struct {
	Packages  []string // of the container's distribution, that bring libraries of others
	Libraries []string // of others, of which no package is known
	Own       []string // of the driver: then the installation is not complete
}

// Lacks tells what the libraries of a job need by their ELF headers and, for
// graphics, at run time, and the container does not have. files are those that are
// installed.
func Lacks(c *lxc.Container, j Job, files []record.File) (Lacking, error) {
	m, err := j.Manifest()
	if err != nil {
		return Lacking{}, err
	}
	needs, err := Needs(j.Tree, m.Entries, j.wants(runfile.Graphics))
	if err != nil {
		return Lacking{}, err
	}
	there := libraries(c, j.arch())
	for _, f := range files {
		there[path.Base(f.Path)] = true
	}
	return lacking(c, there, needs, func(name string) bool {
		return slices.ContainsFunc(m.Entries, func(e runfile.Entry) bool { return path.Base(e.Path) == name && !e.Packaged() })
	}), nil
}

// LacksOthers tells the same of libraries of others, by their names.
func LacksOthers(c *lxc.Container, arch string, needs []string) Lacking {
	return lacking(c, libraries(c, arch), needs, func(string) bool { return false })
}

// Needs are the libraries that those of an unpacked run file need, its own ones too,
// sorted.
func Needs(tree string, entries []runfile.Entry, graphics bool) ([]string, error) {
	needs := map[string]bool{}
	for _, e := range entries {
		if e.IsLink() || e.Compat32 || e.Packaged() || !strings.Contains(path.Base(e.Path), ".so") ||
			strings.HasPrefix(path.Base(e.Path), "libnvidia-pkcs11") { // for confidential computing, opened where it can be
			continue
		}
		names, err := runfile.Needs(filepath.Join(tree, e.Path))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			needs[name] = true
		}
	}
	if graphics {
		for _, name := range opened {
			needs[name] = true
		}
	}
	return slices.Sorted(maps.Keys(needs)), nil
}

func lacking(c *lxc.Container, there map[string]bool, needs []string, own func(string) bool) Lacking {
	var l Lacking
	family := distribution(c)
	for _, name := range needs {
		switch {
		case there[name]:
		case own(name):
			l.Own = append(l.Own, name)
		case packages[name][family] != "":
			l.Packages = append(l.Packages, packages[name][family])
		default:
			l.Libraries = append(l.Libraries, name)
		}
	}
	slices.Sort(l.Packages)
	l.Packages = slices.Compact(l.Packages)
	return l
}

// libraries are the names in the container's folders of 64-bit libraries.
func libraries(c *lxc.Container, arch string) map[string]bool {
	there := map[string]bool{}
	for _, dir := range []string{"/usr/lib/" + arch + "-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/" + arch + "-linux-gnu", "/lib64", "/lib", "/usr/local/lib"} {
		names, err := c.ReadDir(dir, 20000)
		if err != nil {
			continue
		}
		for _, name := range names {
			there[name] = true
		}
	}
	return there
}

// The families of distributions whose packages are known here.
const (
	debian = iota + 1
	fedora
	suse
	archLinux
)

// distribution tells the family of a container's distribution by its package
// manager's files, 0 when it is none of those.
func distribution(c *lxc.Container) int {
	switch {
	case has(c, dpkgStatus):
		return debian
	case has(c, "/var/lib/pacman/local"):
		return archLinux
	case has(c, "/usr/bin/zypper"):
		return suse
	case has(c, "/usr/bin/dnf") || has(c, "/usr/bin/microdnf") || has(c, "/usr/bin/yum"):
		return fedora
	}
	return 0
}

// packages bring a library, in each family.
var packages = map[string]map[int]string{
	"libEGL.so.1":    {debian: "libegl1", fedora: "libglvnd-egl", suse: "libglvnd", archLinux: "libglvnd"},
	"libGL.so.1":     {debian: "libgl1", fedora: "libglvnd-glx", suse: "libglvnd", archLinux: "libglvnd"},
	"libvulkan.so.1": {debian: "libvulkan1", fedora: "vulkan-loader", suse: "libvulkan1", archLinux: "vulkan-icd-loader"},
	"libX11.so.6":    {debian: "libx11-6", fedora: "libX11", suse: "libX11-6", archLinux: "libx11"},
	"libXext.so.6":   {debian: "libxext6", fedora: "libXext", suse: "libXext6", archLinux: "libxext"},
	"libgbm.so.1":    {debian: "libgbm1", fedora: "mesa-libgbm", suse: "libgbm1", archLinux: "mesa"},
}
