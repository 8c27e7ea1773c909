package cuda

import (
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
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
	prefix   string   // of NVIDIA's folder name
	versions []string // VERSION_ID, as far as NVIDIA's folder name tells it apart
}

// families holds the folders of developer.download.nvidia.com/compute/cuda/repos
// that are in public use; Ubuntu has its long-term releases there only, Fedora
// not every release. Alma, Rocky, CentOS Stream and Oracle use Red Hat's.
var families = []family{
	{"Debian", []string{"debian"}, toolApt, "debian", []string{"11", "12", "13"}},
	{"Ubuntu", []string{"ubuntu"}, toolApt, "ubuntu", []string{"20.04", "22.04", "24.04", "26.04"}},
	{"RHEL, Alma, Rocky, CentOS Stream and Oracle", []string{"rhel", "almalinux", "rocky", "centos", "ol"}, toolDnf, "rhel", []string{"8", "9", "10"}},
	{"Fedora", []string{"fedora"}, toolDnf, "fedora", []string{"39", "40", "41", "42", "43", "44"}},
	{"openSUSE Leap", []string{"opensuse-leap"}, toolZypper, "opensuse", []string{"15"}},
	{"SLES", []string{"sles", "sles_sap", "sled"}, toolZypper, "sles", []string{"15"}},
	{"openSUSE Leap and SLES", []string{"opensuse-leap", "sles", "sles_sap", "sled", "suse", "opensuse"}, toolZypper, "suse", []string{"16"}},
	{"Amazon Linux", []string{"amzn"}, toolDnf, "amzn", []string{"2023"}},
}

// folder is NVIDIA's name of a version: Ubuntu's whole version without its dot,
// everyone else's major number.
func (f family) folder(version string) string {
	if f.prefix == "ubuntu" {
		return f.prefix + strings.ReplaceAll(version, ".", "")
	}
	major, _, _ := strings.Cut(version, ".")
	return f.prefix + major
}

// has reports whether NVIDIA has a folder of that name for the family.
func (f family) has(folder string) bool {
	return slices.ContainsFunc(f.versions, func(v string) bool { return f.folder(v) == folder })
}

// FindDistro returns where NVIDIA keeps the packages for o. For one that NVIDIA
// does not serve, Served is false and Tool is the package tool of its kin, ""
// when that is not known either.
func FindDistro(o OS) Distro {
	d := Distro{Folder: strings.ReplaceAll(o.ID+o.Version, ".", "")}
	for _, f := range families {
		if slices.Contains(f.ids, o.ID) {
			d = Distro{f.folder(o.Version), f.tool, f.has(f.folder(o.Version))}
		}
		if d.Served {
			return d
		}
	}
	for _, like := range o.Like {
		for _, f := range families {
			if d.Tool == "" && slices.Contains(f.ids, like) {
				d.Tool = f.tool
			}
		}
	}
	return d
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

// folderTool is the package tool of a folder of NVIDIA's, "" for one that is in no row.
func folderTool(folder string) string {
	for _, f := range families {
		if f.has(folder) {
			return f.tool
		}
	}
	return ""
}
