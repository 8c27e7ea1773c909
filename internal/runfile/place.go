package runfile

import (
	"path"
	"strings"
)

// base is where the installer puts the files of a type, as its published source
// assigns destinations (390 to 590).
type base int

const (
	libFolder  base = iota + 1 // the library folder and the entry's path field below it
	libPlain                   // the library folder itself
	gbmFolder                  // gbm below the library folder
	wineFolder                 // nvidia/wine below the library folder
	ownFolder                  // /usr/lib/nvidia
	firmware                   // /lib/firmware/nvidia/VERSION, whatever the kernel modules' options
	inFolder                   // a folder of its own, and the entry's path field below it
	explicit                   // the path field says it all
	xModules                   // xorg/modules in /usr/lib64, where nobody tells X's own folder
)

// place is what is known of a type.
type place struct {
	base   base
	folder string // of inFolder
	plain  bool   // of inFolder: the path field does not count
	part   Capability
	always bool // wanted whatever the capabilities are
	// sure: neither X, desktop, pkg-config or systemd in the container decide
	// whether and where it is installed, nor which libglvnd it has. Not sure beside
	// those are: the OpenCL loader, which distributions replace; Wine,
	// nvidia-modprobe and libglvnd itself, which are not installed with the options
	// that this program passes; Vulkan's JSON files, which newer installers are said
	// to leave out where no Vulkan loader is; manual pages and documentation, which
	// slim containers delete. What the installer's own log names is checked all the same.
	sure   bool
	openGL bool // left out with --no-opengl-files
	// packaged: packages of distributions have files of the same names.
	packaged bool
}

// arch tells of a library's place that its entry must name the architecture.
func (p place) arch() bool { return p.sure && (p.base == libFolder || p.base == libPlain) }

// places says of each type that is installed where it goes, which capability it
// belongs to, and whether that is certain. Types of kernel modules are not here:
// no container gets them.
var places = map[string]place{
	"CUDA_LIB": {base: libFolder, part: Compute, sure: true}, "CUDA_SYMLINK": {base: libFolder, part: Compute, sure: true},
	"OPENCL_LIB": {base: libFolder, part: Compute, sure: true}, "OPENCL_LIB_SYMLINK": {base: libFolder, part: Compute, sure: true},
	"OPENCL_WRAPPER_LIB": {base: libFolder, part: Compute, packaged: true}, "OPENCL_WRAPPER_SYMLINK": {base: libFolder, part: Compute, packaged: true},
	"CUDA_ICD": {base: inFolder, folder: "/etc/OpenCL/vendors", plain: true, part: Compute, sure: true},

	"UTILITY_LIB": {base: libPlain, part: Utility, sure: true}, "UTILITY_LIB_SYMLINK": {base: libPlain, part: Utility, sure: true},
	"UTILITY_BINARY":             {base: inFolder, folder: "/usr/bin", plain: true, part: Utility, sure: true},
	"SANDBOXUTILS_FILELIST_JSON": {base: inFolder, folder: "/usr/share/nvidia/files.d", plain: true, part: Utility, sure: true},
	"VGX_LIB":                    {base: libPlain, part: Utility}, "VGX_LIB_SYMLINK": {base: libPlain, part: Utility},
	"GRID_LIB": {base: libFolder, part: Utility}, "GRID_LIB_SYMLINK": {base: libFolder, part: Utility},
	"FLEXERA_LIB": {base: libFolder, part: Utility}, "FLEXERA_LIB_SYMLINK": {base: libFolder, part: Utility},

	"VDPAU_LIB": {base: libFolder, part: Video, sure: true}, "VDPAU_SYMLINK": {base: libFolder, part: Video, sure: true},
	"NVCUVID_LIB": {base: libPlain, part: Video, sure: true}, "NVCUVID_LIB_SYMLINK": {base: libPlain, part: Video, sure: true},
	"ENCODEAPI_LIB": {base: libPlain, part: Video, sure: true}, "ENCODEAPI_LIB_SYMLINK": {base: libPlain, part: Video, sure: true},

	"TLS_LIB": {base: libFolder, part: Graphics, sure: true, openGL: true}, "TLS_SYMLINK": {base: libFolder, part: Graphics},
	"OPENGL_LIB": {base: libPlain, part: Graphics, sure: true, openGL: true}, "OPENGL_SYMLINK": {base: libPlain, part: Graphics, sure: true, openGL: true},
	"OPENGL_DATA":   {base: explicit, part: Graphics, sure: true, openGL: true},
	"EXPLICIT_PATH": {base: explicit, part: Display, sure: true},
	"NVIFR_LIB":     {base: libPlain, part: Graphics, sure: true}, "NVIFR_LIB_SYMLINK": {base: libPlain, part: Graphics, sure: true},
	"GBM_BACKEND_LIB": {base: gbmFolder, part: Graphics, sure: true}, "GBM_BACKEND_LIB_SYMLINK": {base: gbmFolder, part: Graphics, sure: true},
	"GLVND_LIB": {base: libPlain, part: Graphics, packaged: true}, "GLVND_SYMLINK": {base: libPlain, part: Graphics, packaged: true},
	"GLX_CLIENT_LIB": {base: libPlain, part: Graphics, packaged: true}, "GLX_CLIENT_SYMLINK": {base: libPlain, part: Graphics, packaged: true},
	"EGL_CLIENT_LIB": {base: libPlain, part: Graphics, packaged: true}, "EGL_CLIENT_SYMLINK": {base: libPlain, part: Graphics, packaged: true},
	"VULKAN_ICD_JSON":            {base: inFolder, folder: "/etc/vulkan", part: Graphics},
	"VULKANSC_ICD_JSON":          {base: inFolder, folder: "/etc/vulkansc", part: Graphics},
	"GLVND_EGL_ICD_JSON":         {base: inFolder, folder: "/usr/share/glvnd/egl_vendor.d", plain: true, part: Graphics},
	"EGL_EXTERNAL_PLATFORM_JSON": {base: inFolder, folder: "/usr/share/egl/egl_external_platform.d", plain: true, part: Graphics},
	"ALLOCATOR_JSON":             {part: Graphics},
	"APPLICATION_PROFILE":        {base: inFolder, folder: "/usr/share/nvidia", plain: true, part: Graphics},

	"WINE_LIB": {base: wineFolder, part: NGX},

	"FIRMWARE":           {base: firmware, part: Display, sure: true},
	"XMODULE_SHARED_LIB": {base: xModules, part: Display}, "XMODULE_SYMLINK": {base: xModules, part: Display}, "XMODULE_NEWSYM": {base: xModules, part: Display},
	"GLX_MODULE_SHARED_LIB": {base: xModules, part: Display}, "GLX_MODULE_SYMLINK": {base: xModules, part: Display},
	"XORG_OUTPUTCLASS_CONFIG": {base: inFolder, folder: "/usr/share/X11/xorg.conf.d", plain: true, part: Display},
	"DOCUMENTATION":           {base: inFolder, folder: "/usr/share/doc", part: Display},
	"MANPAGE":                 {base: inFolder, folder: "/usr/share/man", part: Display},
	"DOT_DESKTOP":             {base: inFolder, folder: "/usr/share/applications", plain: true, part: Display},
	"ICON":                    {base: inFolder, folder: "/usr/share/icons/hicolor", part: Display},
	"OPENGL_HEADER":           {part: Display}, "LIBGL_LA": {part: Display},
	"NVIDIA_MODPROBE": {base: explicit, part: Display}, "NVIDIA_MODPROBE_MANPAGE": {base: inFolder, folder: "/usr/share/man", part: Display},
	"MODULE_SIGNING_KEY":   {base: inFolder, folder: "/usr/share/nvidia", plain: true, part: Display},
	"SYSTEMD_UNIT":         {base: inFolder, folder: "/usr/lib/systemd/system", plain: true, part: Display},
	"SYSTEMD_UNIT_SYMLINK": {base: inFolder, folder: "/etc/systemd/system", part: Display},
	"SYSTEMD_SLEEP_SCRIPT": {base: inFolder, folder: "/usr/lib/systemd/system-sleep", plain: true, part: Display},

	"INSTALLER_BINARY":        {base: inFolder, folder: "/usr/bin", plain: true, always: true, sure: true},
	"UTILITY_BIN_SYMLINK":     {base: inFolder, folder: "/usr/bin", plain: true, always: true, sure: true},
	"INTERNAL_UTILITY_BINARY": {base: ownFolder, always: true, sure: true},
	"INTERNAL_UTILITY_LIB":    {base: ownFolder, always: true, sure: true},
	"INTERNAL_UTILITY_DATA":   {base: ownFolder, always: true, sure: true},
}

// IsLink reports whether the entry is a symbolic link that the installer makes:
// it has a Target and no file in the tree.
func (e Entry) IsLink() bool { return e.Target != "" }

// UserSpace returns the entries of which it is sure that an installer run in a
// container with --silent --no-kernel-module and the given further options puts
// them in place: those of 64 bits, or the others when compat32 is true. An entry
// whose place an option moves is left out.
func (m Manifest) UserSpace(compat32 bool, options ...string) []Entry {
	var kept []Entry
	for _, e := range m.Entries {
		if e.Compat32 == compat32 && certain(e) && !moved(e, options) {
			kept = append(kept, e)
		}
	}
	return kept
}

func certain(e Entry) bool {
	p := places[e.Type]
	if !p.sure || e.choice {
		return false
	}
	switch {
	case path.Base(e.Path) == "libGLX_indirect.so.0":
		return false // has an option of its own, and is left to whatever stands there
	case p.base == explicit:
		return strings.HasPrefix(e.Dest, "/")
	}
	return true
}

// moved tells whether an option leaves an entry out or puts it elsewhere.
func moved(e Entry, options []string) bool {
	for i, o := range options {
		name, value, joined := strings.Cut(o, "=")
		if !joined && i+1 < len(options) {
			value = options[i+1]
		}
		p := places[e.Type]
		inLib := p.base == libFolder || p.base == libPlain || p.base == gbmFolder
		utility := strings.HasPrefix(e.Type, "UTILITY_") || e.Type == "INSTALLER_BINARY"
		switch name {
		case "--no-opengl-files":
			if p.openGL {
				return true
			}
		case "--opengl-prefix", "--opengl-libdir":
			if inLib && !utility && !e.Compat32 {
				return true
			}
		case "--compat32-prefix", "--compat32-libdir", "--compat32-chroot":
			if e.Compat32 {
				return true
			}
		case "--utility-prefix", "--utility-libdir", "--installer-prefix":
			if utility || e.Type == "GBM_BACKEND_LIB_SYMLINK" {
				return true
			}
		case "--gbm-backend-dir", "--gbm-backend-dir32":
			if p.base == gbmFolder {
				return true
			}
		case "--override-file-type-destination":
			if t, _, _ := strings.Cut(value, ":"); t == e.Type || strings.TrimPrefix(t, "FILE_TYPE_") == e.Type {
				return true
			}
		}
	}
	return false
}

// InstalledAt returns the absolute path at which the installer puts an entry,
// given the container's library folder for it (the one that holds libcuda.so.1 of
// that word size, such as /usr/lib/x86_64-linux-gnu or /usr/lib64); false when
// that is not certain.
func (m Manifest) InstalledAt(e Entry, libdir string) (string, bool) {
	if !certain(e) {
		return "", false
	}
	return m.MayBeAt(e, libdir)
}

// MayBeAt returns where the installer puts an entry when neither an option nor
// something in the container decides otherwise; false for what it installs in no
// container.
func (m Manifest) MayBeAt(e Entry, libdir string) (string, bool) {
	p, name, below := places[e.Type], path.Base(e.Path), e.Dest
	if p.plain {
		below = ""
	}
	switch p.base {
	case libFolder:
		return path.Join(libdir, below, name), true
	case libPlain:
		return path.Join(libdir, name), true
	case gbmFolder:
		return path.Join(libdir, "gbm", name), true
	case wineFolder:
		return path.Join(libdir, "nvidia/wine", name), true
	case ownFolder:
		if e.Compat32 {
			return path.Join("/usr/lib/nvidia/32", name), true
		}
		return path.Join("/usr/lib/nvidia", name), true
	case firmware:
		return path.Join("/lib/firmware/nvidia", string(m.Version), below, name), true
	case xModules:
		return path.Join("/usr/lib64/xorg/modules", below, name), true
	case inFolder:
		return path.Join(p.folder, below, name), true
	case explicit:
		return path.Join(below, name), strings.HasPrefix(below, "/")
	}
	return "", false
}

// Packaged tells whether packages of distributions bring files of the entry's name,
// so that the name does not tell whose a file is.
func (e Entry) Packaged() bool { return places[e.Type].packaged }

// LinkText returns what the link of an entry must hold: its Target, which for
// the GBM backend the installer makes absolute.
func (e Entry) LinkText(libdir string) string {
	if e.Type == "GBM_BACKEND_LIB_SYMLINK" {
		return path.Join(libdir, e.Target)
	}
	return e.Target
}
