package cuda

import (
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// The driver in a container comes from the run file and must equal the host's
// kernel module to the last digit. A driver package would overwrite its
// libraries with those of another version, so none may come in with a toolkit.

// debDriver are the names of the driver's packages in NVIDIA's, Debian's and
// Ubuntu's repositories, as apt's preferences take them.
// The toolkit has libraries of similar names (libnvjitlink, libnvjpeg, libnvvm,
// libnvptxcompiler, libnvfatbin), and the container toolkit is called
// nvidia-container-toolkit and libnvidia-container: a plain libnv* or nvidia-*
// would stop those too. libnvidia-* without libnvidia-container* can only be
// written as a regular expression.
var debDriver = []string{
	"cuda", "/^cuda-[0-9]+-[0-9]+$/", "cuda-drivers*", "cuda-runtime-*",
	"nvidia-driver*", "nvidia-open*", "nvidia-kernel*", "nvidia-smi", "nvidia-alternative", "nvidia-persistenced", "nvidia-modprobe",
	"nvidia-utils*", "nvidia-compute-utils*", "nvidia-headless*", "nvidia-dkms*", "nvidia-firmware*", "nvidia-legacy-*", "nvidia-tesla-*",
	"/^libnvidia-([^c]|c[^o]|co[^n]|con[^t])/",
	"libcuda1", "libcudadebugger1", "libnvcuvid1", "libnvoptix1", "firmware-nvidia-gsp*", "xserver-xorg-video-nvidia*",
}

// rpmDriver are the names in NVIDIA's and others' rpm repositories: globs only.
var rpmDriver = []string{
	"cuda", "cuda-[0-9]*-[0-9]*", "cuda-drivers*", "cuda-runtime-*",
	"nvidia-driver*", "nvidia-open*", "nvidia-kmod*", "kmod-nvidia*", "akmod-nvidia*", "xorg-x11-drv-nvidia*",
	"nvidia-smi", "nvidia-persistenced", "nvidia-modprobe", "nvidia-settings", "nvidia-xconfig", "nvidia-libXNVCtrl*",
	"nvidia-compute*", "nvidia-gfx*", "nvidia-gl-*", "nvidia-glG*", "nvidia-video*",
	"libnvidia-[abd-z]*", "libnvidia-cfg*", "libnvidia-common*", "libnvidia-compute*", "libcuda1", "dnf-plugin-nvidia",
}

// pinFile holds debDriver for apt.
const pinFile = "/etc/apt/preferences.d/pve-nvidia-hook"

// pinText is the content of pinFile: with a negative priority apt installs no
// version of a package, whichever repository has it (man 5 apt_preferences).
func pinText() string {
	return "Explanation: The NVIDIA driver in this container comes from the host's run file.\n" +
		"Explanation: Written by pve-nvidia-hook on the host, whose command uninstall takes it away.\n" +
		"Package: " + strings.Join(debDriver, " ") + "\n" +
		"Pin: release *\n" +
		"Pin-Priority: -1\n"
}

var matchers = compile(append(append([]string{}, debDriver...), rpmDriver...))

type matcher struct {
	glob string
	re   *lazy.Regexp
}

func compile(patterns []string) []matcher {
	var all []matcher
	for _, p := range patterns {
		if re, ok := strings.CutPrefix(p, "/"); ok {
			all = append(all, matcher{re: lazy.MustCompile(strings.TrimSuffix(re, "/"))})
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
		if m.re != nil && m.re.MatchString(name) {
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

// firstDriver returns the first of names that belongs to the driver.
func firstDriver(names []string) (string, bool) {
	for _, n := range names {
		if IsDriver(n) {
			return n, true
		}
	}
	return "", false
}

var word = lazy.MustCompile(`[a-z0-9][a-z0-9+.:-]+`)

// driverIn finds a driver package's name in what a package tool said when it
// could not work out a transaction. Names behind "Depends:" count first: the
// words before them are the ones that asked for it.
func driverIn(lines []string) (string, bool) {
	for _, l := range lines {
		if _, after, ok := strings.Cut(l, "Depends:"); ok {
			if name, ok := firstDriver(word.FindAllString(after, -1)); ok {
				return trimArch(name), true
			}
		}
	}
	for _, l := range lines {
		if strings.Contains(l, "://") {
			continue // the address of a CUDA repository holds the word cuda
		}
		if name, ok := firstDriver(word.FindAllString(l, -1)); ok {
			return trimArch(name), true
		}
	}
	return "", false
}

func trimArch(name string) string {
	name, _, _ = strings.Cut(strings.TrimRight(name, ".:"), ":")
	return name
}
