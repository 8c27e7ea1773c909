package runfile

import (
	"maps"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Knows reports whether the installer of this file accepts an option, given as
// "--name" or "--name=value". It matters because the installer refuses the
// whole command line for one option it does not know: exit 1, nothing installed.
//
// The header's help text decides. Beside it count the options that every
// version takes, --no-kernel-module among them, which is left out of the text
// from 515 on but still accepted. A header without option list is judged by its
// version. Whether an option takes a value is not looked at.
func (h Header) Knows(option string) bool {
	name, _, _ := strings.Cut(option, "=")
	base, ok := strings.CutPrefix(name, "--")
	if !ok || base == "" {
		return false
	}
	// Compiled into the x86_64 installer only, whatever a text says.
	if h.Arch != "x86_64" && strings.Contains(base, "compat32") {
		return false
	}
	if slices.Contains(always, base) {
		return true
	}
	if h.listsOptions() {
		return slices.Contains(h.Options, name)
	}
	first, ok := since[base]
	return ok && version.Compare(h.Version, first) >= 0
}

// listsOptions tells whether the header carries the list of advanced options,
// rather than none or only the few of the plain help.
func (h Header) listsOptions() bool {
	return slices.ContainsFunc(h.Options, func(o string) bool {
		return !slices.Contains(plainHelp, o)
	})
}

// plainHelp is what the short help of the newest files lists, and what the
// stub itself says of options that it shares with the installer.
var plainHelp = []string{"--help", "--version", "--advanced-options", "--tmpdir", "--add-this-kernel"}

// always is what every installer since 100.14 accepts, by the option tables of
// NVIDIA's published sources, 100.14.03 to 590.48.01. no-kernel-module lost its
// place in the help text with 515.43.04, not its meaning.
var always = []string{
	"accept-license", "advanced-options", "driver-info", "expert", "help", "kernel-name",
	"log-file-name", "no-abi-note", "no-backup", "no-kernel-module", "no-precompiled-interface",
	"no-questions", "no-recursion", "no-rpms", "no-runlevel-check", "no-x-check", "opengl-libdir",
	"opengl-prefix", "sanity", "silent", "tmpdir", "ui", "uninstall", "utility-libdir",
	"utility-prefix", "version", "x-library-path", "x-module-path", "x-prefix",
}

// since is the version from which on every published installer accepts an
// option, by the same tables. Where an option came to an older branch first
// (no-peermem in 470.86, no-drm in 375.66) the entry is the later version, from
// which no gap is left.
var since = map[string]version.Driver{
	"no-distro-scripts":                         "180.25",
	"no-nouveau-check":                          "256.44",
	"no-opengl-files":                           "295.17",
	"dkms":                                      "304.22",
	"no-kernel-module-source":                   "304.22",
	"disable-nouveau":                           "304.32",
	"no-nvidia-modprobe":                        "319.12",
	"application-profile-path":                  "319.12",
	"no-check-for-alternate-installs":           "325.08",
	"no-unified-memory":                         "331.17",
	"skip-module-unload":                        "346.16",
	"install-compat32-libs":                     "346.16",
	"no-install-compat32-libs":                  "346.16",
	"concurrency-level":                         "346.16",
	"x-sysconfig-path":                          "346.16",
	"no-libglx-indirect":                        "355.06",
	"force-libglx-indirect":                     "355.06",
	"install-libglvnd":                          "361.16",
	"no-install-libglvnd":                       "361.16",
	"no-drm":                                    "381.22",
	"override-file-type-destination":            "396.51",
	"skip-depmod":                               "418.30",
	"systemd":                                   "465.19.01",
	"no-systemd":                                "465.19.01",
	"kernel-module-build-directory":             "470.42.01",
	"no-wine-files":                             "470.42.01",
	"gbm-backend-dir":                           "495.29.05",
	"no-peermem":                                "495.44",
	"no-kernel-modules":                         "515.43.04",
	"no-dkms":                                   "520.56.06",
	"xdg-data-dir":                              "530.30.02",
	"rebuild-initramfs":                         "545.23.06",
	"no-rebuild-initramfs":                      "545.23.06",
	"allow-installation-with-running-driver":    "545.23.06",
	"no-allow-installation-with-running-driver": "545.23.06",
	"no-disable-nouveau":                        "545.23.06",
	"skip-module-load":                          "550.40.07",
	"kernel-module-type":                        "555.42.02",
	"print-recommended-kernel-module-type":      "570.86.16",
	"gbm-backend-dir32":                         "570.86.16",
}

// stubOnly are options that the help text lists and that the stub takes for
// itself: handed to the installer they would be unknown.
var stubOnly = map[string]bool{
	"--lsm": true, "--pkg-history": true, "--label": true, "--version-string": true, "--pkg-version": true,
	"--target-os": true, "--target-arch": true, "--target-directory": true, "--script": true, "--info": true,
	"--list": true, "--extract-decompress": true, "--check": true, "--extract-only": true, "--keep": true,
	"--target": true, "--apply-patch": true,
}

// optionsIn returns the options that a line of the help text names: "  -s, --silent",
// "  --systemd, --no-systemd", "  --ui=UI", plain or behind echo. Option lines are
// indented by two spaces, descriptions by six.
func optionsIn(line string) []string {
	text := line
	if s, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), "echo "); ok && s != "" {
		text = strings.TrimLeft(s, `"'`)
	}
	indent := len(text) - len(strings.TrimLeft(text, " "))
	if indent < 1 || indent > 4 || !strings.HasPrefix(text[indent:], "-") {
		return nil
	}
	var names []string
	for _, item := range strings.Split(text[indent:], ", ") {
		if !strings.HasPrefix(item, "-") {
			break
		}
		if name := longName(item); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// longName returns the "--name" that item starts with, or "".
func longName(item string) string {
	rest, ok := strings.CutPrefix(item, "--")
	if !ok {
		return ""
	}
	end := strings.IndexFunc(rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	if end >= 0 {
		rest = rest[:end]
	}
	if len(rest) < 2 || len(rest) > 64 {
		return ""
	}
	return "--" + rest
}

// maxOptions bounds what a hostile header can make us keep; the newest lists some 130.
const maxOptions = 1000

func installerOptions(found map[string]bool) []string {
	var names []string
	for _, o := range slices.Sorted(maps.Keys(found)) {
		if !stubOnly[o] && len(names) < maxOptions {
			names = append(names, o)
		}
	}
	return names
}
