package fakerun

import (
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// option is one of nvidia-installer's. Which version knows it is a fact of NVIDIA's
// published sources.
type option struct {
	name   string
	short  string
	value  string         // name of the argument; "" when it takes none
	yesno  bool           // has a --no- form too
	since  version.Driver // "": every version
	before version.Driver // gone since; "": still there
	arch   string         // only there; "": everywhere
	common bool           // in --help, not only in --advanced-options
	hidden version.Driver // accepted but no longer listed since
	text   string
}

var options = []option{
	{name: "version", short: "v", common: true, text: "Print the nvidia-installer version and exit."},
	{name: "help", short: "h", common: true, text: "Print usage information for the common options and exit."},
	{name: "advanced-options", short: "A", common: true, text: "Print usage information for all options and exit."},
	{name: "accept-license", short: "a", hidden: "390.42", text: "Obsolete and ignored."},
	{name: "driver-info", short: "i", common: true, text: "Print information about the installed driver and exit."},
	{name: "uninstall", common: true, text: "Uninstall the installed driver."},
	{name: "skip-module-unload", since: "304.125", text: "Do not unload the kernel modules when uninstalling."},
	{name: "skip-module-load", since: "550.40.07", text: "Do not load the kernel modules after installing."},
	{name: "sanity", common: true, text: "Check that the installed files are as they were installed."},
	{name: "expert", short: "e", text: "Ask more questions."},
	{name: "no-questions", short: "q", text: "Take the default answer to every question."},
	{name: "silent", short: "s", text: "Ask nothing, and print only warnings and errors."},
	{name: "x-prefix", value: "X-PREFIX", text: "The prefix of the X server."},
	{name: "x-module-path", value: "X-MODULE-PATH", text: "Where the X modules go."},
	{name: "x-library-path", value: "X-LIBRARY-PATH", text: "Where the X libraries go."},
	{name: "x-sysconfig-path", value: "X-SYSCONFIG-PATH", since: "340.17", text: "Where the X configuration snippets go."},
	{name: "opengl-prefix", value: "OPENGL-PREFIX", text: "The prefix of the OpenGL libraries."},
	{name: "opengl-libdir", value: "OPENGL-LIBDIR", text: "The folder of the OpenGL libraries below their prefix."},
	{name: "wine-prefix", value: "WINE-PREFIX", since: "470.42.01", text: "The prefix of the Wine files."},
	{name: "wine-libdir", value: "WINE-LIBDIR", since: "470.42.01", text: "The folder of the Wine files below their prefix."},
	{name: "compat32-chroot", value: "COMPAT32-CHROOT", arch: "x86_64", text: "The root of the 32-bit files."},
	{name: "compat32-prefix", value: "COMPAT32-PREFIX", arch: "x86_64", text: "The prefix of the 32-bit files."},
	{name: "compat32-libdir", value: "COMPAT32-LIBDIR", arch: "x86_64", text: "The folder of the 32-bit files below their prefix."},
	{name: "install-compat32-libs", yesno: true, since: "346.16", arch: "x86_64", text: "Install the 32-bit libraries."},
	{name: "utility-prefix", value: "UTILITY-PREFIX", text: "The prefix of the tools."},
	{name: "utility-libdir", value: "UTILITY-LIBDIR", text: "The folder of the tools' libraries below their prefix."},
	{name: "xdg-data-dir", value: "XDG-DATA-DIR", text: "Where .desktop files go."},
	{name: "gbm-backend-dir", value: "GBM-BACKEND-DIR", since: "495.29.05", text: "Where the GBM backend goes."},
	{name: "gbm-backend-dir32", value: "GBM-BACKEND-DIR32", since: "570.86.16", text: "Where the 32-bit GBM backend goes."},
	{name: "documentation-prefix", value: "DOCUMENTATION-PREFIX", text: "The prefix of the documentation."},
	{name: "application-profile-path", value: "APPLICATION-PROFILE-PATH", since: "346.16", text: "Where the application profiles go."},
	{name: "kernel-include-path", value: "KERNEL-INCLUDE-PATH", text: "Where the headers of the kernel are."},
	{name: "kernel-source-path", value: "KERNEL-SOURCE-PATH", text: "Where the sources of the kernel are."},
	{name: "kernel-install-path", value: "KERNEL-INSTALL-PATH", text: "Where the kernel modules go."},
	{name: "proc-mount-point", value: "PROC-MOUNT-POINT", text: "Where proc is mounted."},
	{name: "log-file-name", value: "LOG-FILE-NAME", text: "The log of this installation."},
	{name: "tmpdir", value: "TMPDIR", text: "Where temporary files go."},
	{name: "ui", value: "UI", text: "The user interface: ncurses or none."},
	{name: "no-ncurses-color", short: "c", text: "No colours."},
	{name: "no-nvidia-modprobe", since: "319.12", text: "Leave out the setuid nvidia-modprobe."},
	{name: "kernel-name", short: "k", value: "KERNEL-NAME", text: "The kernel to build modules for."},
	{name: "no-precompiled-interface", short: "n", text: "Build the kernel interfaces."},
	{name: "no-rpms", text: "Do not look for conflicting rpm packages."},
	{name: "no-backup", short: "b", text: "Do not keep what is replaced."},
	{name: "no-recursion", short: "r", text: "Search only the top level of folders for conflicting files."},
	{name: "kernel-module-only", short: "K", text: "Install only the kernel modules."},
	{name: "no-kernel-module", hidden: "515.43.04", text: "Install everything but the kernel modules."},
	{name: "no-kernel-modules", since: "515.43.04", text: "Install everything but the kernel modules."},
	{name: "no-x-check", text: "Do not look for a running X server."},
	{name: "no-nouveau-check", short: "z", text: "Do not look for the Nouveau driver."},
	{name: "disable-nouveau", short: "Z", since: "304.32", before: "545.23.06", text: "Disable Nouveau."},
	{name: "disable-nouveau", short: "Z", yesno: true, since: "545.23.06", text: "Disable Nouveau."},
	{name: "run-nvidia-xconfig", short: "X", text: "Run nvidia-xconfig when done."},
	{name: "force-selinux", value: "FORCE-SELINUX", text: "Set SELinux contexts: yes, no or default."},
	{name: "selinux-chcon-type", value: "SELINUX-CHCON-TYPE", text: "The SELinux type of libraries."},
	{name: "no-distro-scripts", text: "Do not run the distribution's hook scripts."},
	{name: "no-opengl-files", since: "295.17", text: "Leave out all files of OpenGL."},
	{name: "no-wine-files", since: "470.42.01", text: "Leave out the files for Wine."},
	{name: "kernel-module-source-prefix", value: "KERNEL-MODULE-SOURCE-PREFIX", text: "The prefix of the kernel module sources."},
	{name: "no-kernel-module-source", text: "Leave out the kernel module sources."},
	{name: "dkms", since: "304.22", before: "520.56.06", text: "Register the kernel modules with DKMS."},
	{name: "dkms", yesno: true, since: "520.56.06", text: "Register the kernel modules with DKMS."},
	{name: "no-check-for-alternate-installs", since: "325.08", text: "Do not look for drivers installed by other means."},
	{name: "no-unified-memory", since: "331.13", text: "Leave out the unified memory kernel module."},
	{name: "no-drm", since: "375.66", text: "Leave out the DRM kernel module."},
	{name: "no-peermem", since: "470.86", text: "Leave out the peer memory kernel module."},
	{name: "concurrency-level", short: "j", value: "CONCURRENCY-LEVEL", since: "346.16", text: "How many processes to use."},
	{name: "force-libglx-indirect", since: "355.06", text: "Install a libGLX_indirect.so.0 link in any case."},
	{name: "no-libglx-indirect", since: "355.06", text: "Do not install a libGLX_indirect.so.0 link."},
	{name: "install-libglvnd", yesno: true, since: "361.16", text: "Install the libglvnd of this package."},
	{name: "glvnd-egl-config-path", value: "GLVND-EGL-CONFIG-PATH", since: "361.16", text: "Where libglvnd looks for EGL drivers."},
	{name: "override-file-type-destination", value: "FILE-TYPE:DIR", since: "396.51", text: "Where files of a type go."},
	{name: "skip-depmod", since: "418.30", text: "Do not run depmod."},
	{name: "systemd", yesno: true, since: "465.19.01", text: "Install the units for systemd."},
	{name: "kernel-module-build-directory", short: "m", value: "KERNEL-MODULE-BUILD-DIRECTORY", since: "470.42.01", text: "Which kernel module sources to build."},
	{name: "allow-installation-with-running-driver", yesno: true, since: "545.23.06", text: "Install although the driver is in use."},
	{name: "rebuild-initramfs", yesno: true, since: "545.23.06", text: "Rebuild the initramfs."},
	{name: "kernel-module-type", short: "M", value: "KERNEL-MODULE-TYPE", since: "555.42.02", text: "open or proprietary."},
	{name: "print-recommended-kernel-module-type", since: "570.86.16", text: "Print which kernel modules fit this machine, and exit."},
	{name: "update", before: "381.22", text: "Look for a newer driver."},
	{name: "latest", before: "381.22", text: "Print the newest version."},
	{name: "opengl-headers", before: "396.54", text: "Install the OpenGL headers."},
}

// optionsOf are the options that the installer of the sample accepts.
func optionsOf(s Spec) []option {
	var known []option
	for _, o := range options {
		if o.since != "" && !s.since(o.since) ||
			o.before != "" && s.since(o.before) ||
			o.arch != "" && o.arch != s.Arch {
			continue
		}
		known = append(known, o)
	}
	return known
}

// head is the line that names the option in the help text, such as
// "-j N, --concurrency-level=N" or "--systemd, --no-systemd".
func (o option) head() string {
	long := "--" + o.name
	if o.value != "" {
		long += "=" + o.value
	}
	if o.short != "" {
		long = "-" + strings.TrimSpace(o.short+" "+o.value) + ", " + long
	}
	if o.yesno {
		long += ", --no-" + o.name
	}
	return long
}

// helpText is the part of the header that prints the options, in NVIDIA's form: programs
// read the lines that start with four spaces, echo and two more.
func helpText(s Spec, commonOnly bool) string {
	var b strings.Builder
	for _, o := range optionsOf(s) {
		if commonOnly && !o.common || o.hidden != "" && s.since(o.hidden) {
			continue
		}
		b.WriteString(`    echo "  ` + o.head() + "\"\n")
		b.WriteString(`    echo "      ` + o.text + "\"\n")
		b.WriteString(`    echo ""` + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// installerOptions are the options as the three lists that the installer script has of them.
func installerOptions(s Spec) (flags, values, booleans string) {
	var f, v, b []string
	for _, o := range optionsOf(s) {
		switch {
		case o.value != "":
			v = append(v, "--"+o.name)
		case o.yesno:
			b = append(b, "--"+o.name, "--no-"+o.name)
		default:
			f = append(f, "--"+o.name)
		}
	}
	return strings.Join(f, " "), strings.Join(v, " "), strings.Join(b, " ")
}
