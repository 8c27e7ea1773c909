// Package driver looks after the user space of NVIDIA's driver in a container:
// what is there, what stands in its way, how it gets in and out, and whether it
// works.
package driver

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Found is what a container's files say of the driver in it. Nothing in it
// proves that the driver works.
type Found struct {
	CUDA version.Driver `json:"cuda,omitempty"` // version that libcuda.so.1 leads to
	NVML version.Driver `json:"nvml,omitempty"` // version that libnvidia-ml.so.1 leads to
	// Log is the version in the installer's own log of what it installs. It is
	// written before the first file is copied: it names what was begun.
	Log version.Driver `json:"log,omitempty"`
}

// Any reports whether anything of a driver is there.
func (f Found) Any() bool { return f != Found{} }

// Version returns the version that both libraries agree on, or "".
func (f Found) Version() version.Driver {
	if f.CUDA == f.NVML {
		return f.CUDA
	}
	return ""
}

const (
	cudaLink = "libcuda.so.1"
	nvmlLink = "libnvidia-ml.so.1"
	// installerState is where nvidia-installer keeps what it did: line 1 of its
	// log reads "1.0-55016301 (550.163.01)".
	installerState = "/var/lib/nvidia"
)

// libdirs are the folders that nvidia-installer chooses from for 64-bit
// libraries, by what the container's ldconfig knows. One that is a link to
// another, as /usr/lib64 is on Arch, is none of its own.
func libdirs(c *lxc.Container, arch string) []string {
	all := []string{"/usr/lib/" + arch + "-linux-gnu", "/usr/lib64", "/usr/lib"}
	return slices.DeleteFunc(all, func(dir string) bool {
		info, err := c.Lstat(dir)
		return err != nil || !info.Mode.IsDir()
	})
}

// Look reads what is in the container, without starting a process there.
func Look(c *lxc.Container, arch string) Found {
	f := Found{Log: loggedVersion(c)}
	for _, dir := range libdirs(c, arch) {
		if f.CUDA == "" {
			f.CUDA = linkedVersion(c, path.Join(dir, cudaLink))
		}
		if f.NVML == "" {
			f.NVML = linkedVersion(c, path.Join(dir, nvmlLink))
		}
	}
	return f
}

// linkedVersion returns the version in the name that a link leads to.
func linkedVersion(c *lxc.Container, link string) version.Driver {
	target, err := c.Readlink(link)
	if err != nil {
		return ""
	}
	return versionOf(target)
}

func versionOf(library string) version.Driver {
	_, after, _ := strings.Cut(path.Base(library), ".so.")
	v, _ := version.Parse(after)
	return v
}

var logLine = lazy.Regexp(`^[0-9.\-]+ \(([0-9.]+)\)`)

func loggedVersion(c *lxc.Container) version.Driver {
	f, err := c.OpenFile(installerState + "/log")
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 200)
	n, _ := io.ReadFull(f, head)
	m := logLine().FindStringSubmatch(string(head[:n]))
	if m == nil {
		return ""
	}
	v, _ := version.Parse(m[1])
	return v
}

// Differs compares what a record claims with the files of the container and
// returns the first difference in words, or "" when all is as recorded. Every
// recorded file is looked at, not only the two libraries that name the version:
// a container stripped of a library must not pass. wanted are the capabilities
// that it is to have; a record without any is of a driver that has them all.
func Differs(c *lxc.Container, in *record.Installed, wanted []string) string {
	if len(in.Capabilities) > 0 && !slices.Equal(in.Capabilities, wanted) {
		return fmt.Sprintf("the driver has the capabilities %s; %s are configured", strings.Join(in.Capabilities, ", "), strings.Join(wanted, ", "))
	}
	var cuda, nvml bool
	for i, found := range c.LstatAll(paths(in.Files)) {
		f := in.Files[i]
		switch base := path.Base(f.Path); {
		case f.Link != "" && found.Err != nil:
			return fmt.Sprintf("the link %s is gone", f.Path)
		case f.Link != "" && found.Target != f.Link:
			return fmt.Sprintf("the link %s leads to %.80q instead of %s", f.Path, found.Target, f.Link)
		case f.Link != "":
			cuda = cuda || base == cudaLink && versionOf(f.Link) == in.Version
			nvml = nvml || base == nvmlLink && versionOf(f.Link) == in.Version
		case found.Err != nil:
			return fmt.Sprintf("the file %s is gone", f.Path)
		case !found.Mode.IsRegular() || found.Size != f.Size:
			return fmt.Sprintf("the file %s is not the one that was installed", f.Path)
		}
	}
	if !cuda || !nvml {
		return fmt.Sprintf("the record does not name both %s and %s of %s", cudaLink, nvmlLink, in.Version)
	}
	return ""
}

// orphan matches library files of the driver by its version, whose first number
// has three digits or more. Libraries with a version of their own, such as
// libnvidia-egl-wayland.so.1.1.20, come with the driver but also without it.
var orphan = lazy.Regexp(`^lib(cuda|cudadebugger|nvcuvid|nvoptix|nvidia-[a-z0-9-]+|EGL_nvidia|GLX_nvidia|GLESv1_CM_nvidia|GLESv2_nvidia|vdpau_nvidia)\.so\.[0-9]{3,4}\.[0-9]+(\.[0-9]+)?$`)

// theirs matches libraries that belong to packages of their own, though NVIDIA
// makes them and names them like the driver's: the Container Toolkit's and NSCQ.
var theirs = lazy.Regexp(`^libnvidia-(container|nscq)`)

// Orphans lists driver libraries of other versions than keep. Left in place
// they win: ldconfig points libcuda.so.1 to the highest version that it finds.
func Orphans(c *lxc.Container, arch string, keep version.Driver) []string {
	var found []string
	for _, dir := range libdirs(c, arch) {
		names, err := c.ReadDir(dir, 20000)
		if err != nil {
			continue
		}
		for _, name := range names {
			if orphan().MatchString(name) && !theirs().MatchString(name) && !strings.HasSuffix(name, ".so."+string(keep)) {
				found = append(found, path.Join(dir, name))
			}
		}
	}
	return found
}

// LibraryVersion returns the version in the name of a library of the driver, such
// as /usr/lib64/libcuda.so.580.95.05, and "" for any other file: one with a version
// of its own, or of another package.
func LibraryVersion(file string) version.Driver {
	name := path.Base(file)
	if !orphan().MatchString(name) || theirs().MatchString(name) {
		return ""
	}
	return versionOf(name)
}
