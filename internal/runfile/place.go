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
	binFolder                  // /usr/bin
	firmware                   // /lib/firmware/nvidia/VERSION, whatever the kernel modules' options
	openCLICD                  // /etc/OpenCL/vendors
	ownFolder                  // /usr/lib/nvidia
	filesLists                 // /usr/share/nvidia/files.d
	explicit                   // the path field says it all
)

// sure are the types whose place and installation depend neither on X, desktop,
// pkg-config or systemd in the container, nor on which libglvnd it has. Left out
// on purpose beside those: the OpenCL loader, which distributions replace;
// Wine, nvidia-modprobe and libglvnd itself, which are not installed with the
// options that this program passes; Vulkan's JSON files, which newer installers
// are said to leave out where no Vulkan loader is; manual pages and documentation,
// which slim containers delete.
var sure = map[string]base{
	"CUDA_LIB": libFolder, "CUDA_SYMLINK": libFolder,
	"OPENCL_LIB": libFolder, "OPENCL_LIB_SYMLINK": libFolder,
	"TLS_LIB": libFolder, "VDPAU_LIB": libFolder, "VDPAU_SYMLINK": libFolder,
	"UTILITY_LIB": libPlain, "UTILITY_LIB_SYMLINK": libPlain,
	"NVCUVID_LIB": libPlain, "NVCUVID_LIB_SYMLINK": libPlain,
	"ENCODEAPI_LIB": libPlain, "ENCODEAPI_LIB_SYMLINK": libPlain,
	"NVIFR_LIB": libPlain, "NVIFR_LIB_SYMLINK": libPlain,
	"OPENGL_LIB": libPlain, "OPENGL_SYMLINK": libPlain,
	"GBM_BACKEND_LIB": gbmFolder, "GBM_BACKEND_LIB_SYMLINK": gbmFolder,
	"UTILITY_BINARY": binFolder, "UTILITY_BIN_SYMLINK": binFolder, "INSTALLER_BINARY": binFolder,
	"FIRMWARE": firmware, "CUDA_ICD": openCLICD,
	"INTERNAL_UTILITY_BINARY": ownFolder, "INTERNAL_UTILITY_LIB": ownFolder, "INTERNAL_UTILITY_DATA": ownFolder,
	"SANDBOXUTILS_FILELIST_JSON": filesLists, "EXPLICIT_PATH": explicit, "OPENGL_DATA": explicit,
}

// openGL are the types above that --no-opengl-files leaves out.
var openGL = map[string]bool{"OPENGL_LIB": true, "OPENGL_SYMLINK": true, "TLS_LIB": true, "OPENGL_DATA": true}

// IsLink reports whether the entry is a symbolic link that the installer makes:
// it has a Target and no file in the tree.
func (e Entry) IsLink() bool { return e.Target != "" }

// UserSpace returns the 64-bit entries of which it is sure that an installer run
// in a container with --silent --no-kernel-module and the given further options
// puts them in place. An entry whose place an option moves is left out.
func (m Manifest) UserSpace(options ...string) []Entry {
	var kept []Entry
	for _, e := range m.Entries {
		if m.certain(e) && !moved(e, options) {
			kept = append(kept, e)
		}
	}
	return kept
}

func (m Manifest) certain(e Entry) bool {
	b, ok := sure[e.Type]
	if !ok || e.Compat32 || e.choice {
		return false
	}
	switch {
	case path.Base(e.Path) == "libGLX_indirect.so.0":
		return false // has an option of its own, and is left to whatever stands there
	case b == explicit:
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
		b := sure[e.Type]
		inLib := b == libFolder || b == libPlain || b == gbmFolder
		utility := strings.HasPrefix(e.Type, "UTILITY_") || e.Type == "INSTALLER_BINARY"
		switch name {
		case "--no-opengl-files":
			if openGL[e.Type] {
				return true
			}
		case "--opengl-prefix", "--opengl-libdir":
			if inLib && !utility {
				return true
			}
		case "--utility-prefix", "--utility-libdir", "--installer-prefix":
			if utility || e.Type == "GBM_BACKEND_LIB_SYMLINK" {
				return true
			}
		case "--gbm-backend-dir":
			if b == gbmFolder {
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
// given the container's library folder (the one that holds libcuda.so.1, such
// as /usr/lib/x86_64-linux-gnu or /usr/lib64); false when that is not certain.
func (m Manifest) InstalledAt(e Entry, libdir string) (string, bool) {
	if !m.certain(e) {
		return "", false
	}
	name := path.Base(e.Path)
	switch sure[e.Type] {
	case libFolder:
		return path.Join(libdir, e.Dest, name), true
	case libPlain:
		return path.Join(libdir, name), true
	case gbmFolder:
		return path.Join(libdir, "gbm", name), true
	case binFolder:
		return path.Join("/usr/bin", name), true
	case firmware:
		return path.Join("/lib/firmware/nvidia", string(m.Version), e.Dest, name), true
	case openCLICD:
		return path.Join("/etc/OpenCL/vendors", name), true
	case ownFolder:
		return path.Join("/usr/lib/nvidia", name), true
	case filesLists:
		return path.Join("/usr/share/nvidia/files.d", name), true
	case explicit:
		return path.Join(e.Dest, name), true
	}
	return "", false
}

// LinkText returns what the link of an entry must hold: its Target, which for
// the GBM backend the installer makes absolute.
func (e Entry) LinkText(libdir string) string {
	if e.Type == "GBM_BACKEND_LIB_SYMLINK" {
		return path.Join(libdir, e.Target)
	}
	return e.Target
}
