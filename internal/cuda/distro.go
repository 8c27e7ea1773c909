package cuda

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// The package tools that this package can drive.
const (
	toolApt    = "apt"
	toolDnf    = "dnf"
	toolZypper = "zypper"
)

// Distro is where NVIDIA keeps the packages of an operating system.
type Distro struct {
	Folder string // NVIDIA's name of it: debian12, ubuntu2404, rhel9
	Tool   string // apt, dnf or zypper
	Served bool   // NVIDIA has a folder for just this operating system
}

// family is one row of the table of what NVIDIA serves.
type family struct {
	name     string   // for a person
	ids      []string // ID of os-release
	tool     string
	prefix   string            // of NVIDIA's folder name
	versions []string          // VERSION_ID, as far as NVIDIA's folder name tells it apart
	folders  map[string]string // of versions whose folder is not prefix and version
}

// suse16 is what SUSE's two systems share from version 16 on.
var suse16 = map[string]string{"16": "suse16"}

// families holds the folders of developer.download.nvidia.com/compute/cuda/repos
// that are in public use; Ubuntu has its long-term releases there only, Fedora
// not every release. Alma, Rocky, CentOS Stream and Oracle use Red Hat's.
var families = []family{
	{"Debian", []string{"debian"}, toolApt, "debian", []string{"11", "12", "13"}, nil},
	{"Ubuntu", []string{"ubuntu"}, toolApt, "ubuntu", []string{"20.04", "22.04", "24.04", "26.04"}, nil},
	{"RHEL, Alma, Rocky, CentOS Stream and Oracle", []string{"rhel", "almalinux", "rocky", "centos", "ol"}, toolDnf, "rhel", []string{"8", "9", "10"}, nil},
	{"Fedora", []string{"fedora"}, toolDnf, "fedora", []string{"39", "40", "41", "42", "43", "44"}, nil},
	{"openSUSE Leap", []string{"opensuse-leap"}, toolZypper, "opensuse", []string{"15", "16"}, suse16},
	{"SLES", []string{"sles", "sles_sap", "sled"}, toolZypper, "sles", []string{"15", "16"}, suse16},
	{"Amazon Linux", []string{"amzn"}, toolDnf, "amzn", []string{"2023"}, nil},
}

// short is the part of VERSION_ID that NVIDIA's folder name carries: Ubuntu's
// whole version without its dot, everyone else's major number.
func (f family) short(version string) string {
	if f.prefix == "ubuntu" {
		return strings.ReplaceAll(version, ".", "")
	}
	major, _, _ := strings.Cut(version, ".")
	return major
}

// folder is NVIDIA's name of a version.
func (f family) folder(version string) string {
	if name, ok := f.folders[f.short(version)]; ok {
		return name
	}
	return f.prefix + f.short(version)
}

func (f family) serves(version string) bool {
	return slices.ContainsFunc(f.versions, func(v string) bool { return f.short(v) == f.short(version) && version != "" })
}

// FindDistro returns where NVIDIA keeps the packages for o. For one that NVIDIA
// does not serve, Served is false and Tool is the package tool of its kin, ""
// when that is not known either.
func FindDistro(o OS) Distro {
	for _, f := range families {
		if slices.Contains(f.ids, o.ID) {
			return Distro{Folder: f.folder(o.Version), Tool: f.tool, Served: f.serves(o.Version)}
		}
	}
	return Distro{Folder: strings.ReplaceAll(o.ID+o.Version, ".", ""), Tool: kinTool(o)}
}

// kinTool guesses the package tool of an operating system that is in no row, by
// what it says it is like.
func kinTool(o OS) string {
	for _, like := range append([]string{o.ID}, o.Like...) {
		if strings.HasPrefix(like, "opensuse") || like == "suse" {
			return toolZypper
		}
		for _, f := range families {
			if slices.Contains(f.ids, like) {
				return f.tool
			}
		}
	}
	return ""
}

// Served lists for a person what NVIDIA has packages for.
func Served() string {
	var all []string
	for _, f := range families {
		all = append(all, f.name+" "+strings.Join(f.versions, ", "))
	}
	return strings.Join(all, "; ")
}

func notServed(o OS) error {
	return hint.Errorf("use a container with one of these, or set cuda.repo_url to a repository made for its kin",
		"NVIDIA has no CUDA packages for %s; it has for %s", o, Served())
}

// repoArch turns a machine's architecture into NVIDIA's name of it; 64-bit Arm
// servers are "sbsa" there.
func repoArch(arch string) (string, error) {
	switch arch {
	case "x86_64", "amd64":
		return "x86_64", nil
	case "aarch64", "arm64":
		return "sbsa", nil
	}
	return "", fmt.Errorf("NVIDIA has no CUDA packages for the architecture %q", arch)
}

var folderForm = lazy.Regexp(`^(?:wsl-)?(debian|ubuntu|rhel|fedora|opensuse|sles|suse|amzn|azl|cm|kylin)[0-9]*$`)

// folderTool is the package tool of a folder of NVIDIA's, "" for one that is in no row.
func folderTool(folder string) string {
	name := folderForm().FindStringSubmatch(folder)
	if name == nil {
		return ""
	}
	for _, f := range families {
		if f.prefix == name[1] || slices.Contains(slices.Collect(maps.Values(f.folders)), folder) {
			return f.tool
		}
	}
	return ""
}
