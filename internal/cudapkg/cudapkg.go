// Package cudapkg knows the names of CUDA's releases and packages, and which
// packages belong to the driver: what may stand in a configuration, and what may
// come into a container with a toolkit.
package cudapkg

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Auto as the wanted toolkit is the newest that the repository has and the
// driver fully supports.
const Auto = "auto"

// ContainerToolkit is the package of NVIDIA's Container Toolkit. It comes from the
// repository of the CUDA toolkit, and is another thing.
const ContainerToolkit = "nvidia-container-toolkit"

var (
	release = lazy.Regexp(`^[1-9][0-9]?\.(0|[1-9][0-9]?)$`)
	name    = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}$`)
	number  = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9+.:~_-]{0,127}$`)
)

// IsRelease reports whether s is a release of the toolkit, such as 12.8.
func IsRelease(s string) bool { return release().MatchString(s) }

// IsName reports whether s has the form of a package name in all three package
// worlds: those of rpm have capitals.
func IsName(s string) bool { return name().MatchString(s) }

// Wrong says what is wrong with a package to install, NAME or NAME=VERSION, "" when nothing is.
func Wrong(s string) string {
	name, version, pinned := strings.Cut(s, "=")
	switch {
	case !IsName(name):
		return "is not a package name"
	case pinned && !number().MatchString(version):
		return "names no version of a package"
	case IsDriver(name):
		return "belongs to the NVIDIA driver, which comes from the host's run file"
	}
	return ""
}

// The driver in a container comes from the run file and must equal the host's
// kernel module to the last digit. A driver package would overwrite its
// libraries with those of another version, so none may come in with a toolkit.

// DebDriver are the names of the driver's packages in NVIDIA's, Debian's and
// Ubuntu's repositories, as apt's preferences take them.
// The toolkit has libraries of similar names (libnvjitlink, libnvjpeg, libnvvm,
// libnvptxcompiler, libnvfatbin, libnvidia-ml-dev), and the container toolkit is
// called nvidia-container-toolkit and libnvidia-container: a plain libnv* or
// nvidia-* would stop those too, and only a regular expression can leave some out.
// nvidia-installer-cleanup cannot be installed beside a run file's driver.
var DebDriver = []string{
	"cuda", "/^cuda-[0-9]+-[0-9]+$/", "cuda-drivers*", "cuda-runtime-*",
	"nvidia-driver*", "nvidia-open*", "nvidia-kernel*", "nvidia-smi", "nvidia-alternative", "nvidia-persistenced", "nvidia-modprobe",
	"nvidia-utils*", "nvidia-compute-utils*", "nvidia-headless*", "nvidia-dkms*", "nvidia-firmware*", "nvidia-legacy-*", "nvidia-tesla-*",
	"nvidia-settings*", "nvidia-xconfig", "nvidia-cuda-mps", "nvidia-opencl-*", "nvidia-libopencl1", "nvidia-vulkan-*", "nvidia-egl-*",
	"nvidia-vdpau-driver", "nvidia-suspend-common", "nvidia-powerd", "nvidia-support", "nvidia-installer-cleanup", "glx-alternative-nvidia",
	"/^libnvidia-([^cm]|c[^o]|co[^n]|con[^t]|m[^l]|ml[^-])/", "/^lib(egl|gl1|gles|glx)-nvidia/",
	"libcuda1", "libcudadebugger1", "libnvcuvid1", "libnvoptix1",
	"firmware-nvidia-gsp*", "firmware-nvidia-tesla-*", "xserver-xorg-video-nvidia*", "linux-modules-nvidia-*",
}

// RPMDriver are the names in NVIDIA's and others' rpm repositories: globs only.
var RPMDriver = []string{
	"cuda", "cuda-[0-9]*-[0-9]*", "cuda-drivers*", "cuda-runtime-*",
	"nvidia-driver*", "nvidia-open*", "nvidia-kmod*", "kmod-nvidia*", "akmod-nvidia*", "dkms-nvidia*", "xorg-x11-drv-nvidia*",
	"nvidia-smi", "nvidia-persistenced*", "nvidia-modprobe*", "nvidia-settings*", "nvidia-xconfig*", "nvidia-libXNVCtrl*",
	"nvidia-compute*", "nvidia-gfx*", "nvidia-gl-*", "nvidia-glG*", "nvidia-video*", "nvidia-utils*", "nvidia-common*",
	"libnvidia-[abd-ln-z]*", "libnvidia-ml", "libnvidia-cfg*", "libnvidia-common*", "libnvidia-compute*", "libcuda1",
	"kernel-firmware-nvidia-gsp*", "dnf-plugin-nvidia",
}

// companions serve Debian's driver packages only and hold no file of the driver.
// They may stay beside a run file's driver.
var companions = []string{"glx-diversions", "glx-alternative-mesa", "update-glx"}

// IsCompanion reports whether a package of this name only serves those of the
// driver, so that it may go with them.
func IsCompanion(name string) bool { return slices.Contains(companions, name) }

var matchers = compile(append(append([]string{}, DebDriver...), RPMDriver...))

type matcher struct {
	glob string
	re   func() *regexp.Regexp
}

func compile(patterns []string) []matcher {
	var all []matcher
	for _, p := range patterns {
		if re, ok := strings.CutPrefix(p, "/"); ok {
			all = append(all, matcher{re: lazy.Regexp(strings.TrimSuffix(re, "/"))})
		} else {
			all = append(all, matcher{glob: p})
		}
	}
	return all
}

// IsDriver reports whether a package of this name belongs to the driver. An
// architecture behind a colon or a version behind = is left out of account.
func IsDriver(name string) bool {
	name, _, _ = strings.Cut(name, "=")
	name, _, _ = strings.Cut(name, ":")
	for _, m := range matchers {
		if m.re != nil && m.re().MatchString(name) {
			return true
		}
		if m.re == nil {
			if ok, _ := path.Match(m.glob, name); ok {
				return true
			}
		}
	}
	return false
}
