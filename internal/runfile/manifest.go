package runfile

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const (
	maxManifest = 4 << 20
	maxEntries  = 20_000
	// manifestHead is how many lines at most precede the entries: 8 in the installers of
	// 390 and later, 9 in older ones.
	manifestHead = 9
)

// Entry is a file or link that the manifest promises.
type Entry struct {
	Path     string // in the unpacked tree; for a link, its name
	Mode     uint32 // permission bits with set-user-ID, as the installer sets them; 0 for a link
	Type     string // CUDA_LIB, UTILITY_BINARY, CUDA_SYMLINK ...
	Compat32 bool
	Dest     string // the PATH field, when the type has one: below the library folder, or absolute
	Target   string // of a *_SYMLINK
	Module   string

	// choice is set where the installer picks among several entries of one name
	// by a further word (TLS class up to 396, GLVND or not up to 418).
	choice bool
}

// Manifest is the parsed .manifest of an unpacked tree.
type Manifest struct {
	Version version.Driver
	Entries []Entry

	head  []string // the lines before the entries
	lines []string // those of Entries
}

// fields tells which optional fields an entry's type has, as in the type table
// of nvidia-installer's published sources (390 to 590).
type fields struct{ arch, dest, inherit, target bool }

var (
	plainFile  = fields{}
	withArch   = fields{arch: true}
	withDest   = fields{dest: true}
	archDest   = fields{arch: true, dest: true}
	link       = fields{target: true}
	archLink   = fields{arch: true, target: true}
	destLink   = fields{dest: true, target: true}
	archDestLk = fields{arch: true, dest: true, target: true}
	inherited  = fields{inherit: true}
)

var types = map[string]fields{
	"KERNEL_MODULE_SRC": inherited, "KERNEL_MODULE": plainFile, "DKMS_CONF": inherited, "FIRMWARE": inherited,
	"OPENGL_LIB": withArch, "OPENGL_SYMLINK": archLink, "WINE_LIB": withArch, "LIBGL_LA": withArch,
	"CUDA_LIB": archDest, "CUDA_SYMLINK": archDestLk, "CUDA_ICD": plainFile,
	"OPENCL_LIB": archDest, "OPENCL_LIB_SYMLINK": archDestLk,
	"OPENCL_WRAPPER_LIB": archDest, "OPENCL_WRAPPER_SYMLINK": archDestLk,
	"TLS_LIB": archDest, "TLS_SYMLINK": archDestLk,
	"UTILITY_LIB": withArch, "UTILITY_LIB_SYMLINK": archLink,
	"UTILITY_BINARY": plainFile, "UTILITY_BIN_SYMLINK": link, "INSTALLER_BINARY": plainFile,
	"GBM_BACKEND_LIB": withArch, "GBM_BACKEND_LIB_SYMLINK": archLink,
	"VDPAU_LIB": archDest, "VDPAU_SYMLINK": archDestLk,
	"NVCUVID_LIB": withArch, "NVCUVID_LIB_SYMLINK": archLink,
	"ENCODEAPI_LIB": withArch, "ENCODEAPI_LIB_SYMLINK": archLink,
	"NVIFR_LIB": withArch, "NVIFR_LIB_SYMLINK": archLink,
	"GLVND_LIB": withArch, "GLVND_SYMLINK": archLink,
	"GLX_CLIENT_LIB": withArch, "GLX_CLIENT_SYMLINK": archLink,
	"EGL_CLIENT_LIB": withArch, "EGL_CLIENT_SYMLINK": archLink,
	"VGX_LIB": plainFile, "VGX_LIB_SYMLINK": link,
	"GRID_LIB": withDest, "GRID_LIB_SYMLINK": destLink,
	"FLEXERA_LIB": withDest, "FLEXERA_LIB_SYMLINK": destLink,
	"XMODULE_SHARED_LIB": withDest, "XMODULE_SYMLINK": destLink, "XMODULE_NEWSYM": destLink,
	"GLX_MODULE_SHARED_LIB": withDest, "GLX_MODULE_SYMLINK": destLink,
	"DOCUMENTATION": withDest, "MANPAGE": withDest, "APPLICATION_PROFILE": withDest, "EXPLICIT_PATH": withDest,
	"DOT_DESKTOP": withDest, "ICON": withDest, "OPENGL_HEADER": withDest, "OPENGL_DATA": withDest,
	"NVIDIA_MODPROBE": withDest, "NVIDIA_MODPROBE_MANPAGE": withDest, "MODULE_SIGNING_KEY": plainFile,
	"XORG_OUTPUTCLASS_CONFIG": plainFile, "GLVND_EGL_ICD_JSON": plainFile, "EGL_EXTERNAL_PLATFORM_JSON": plainFile,
	"ALLOCATOR_JSON":  plainFile,
	"VULKAN_ICD_JSON": withDest, "VULKANSC_ICD_JSON": withDest, // VULKAN_ICD_JSON without one up to 430
	"INTERNAL_UTILITY_BINARY": withArch, "INTERNAL_UTILITY_LIB": withArch, "INTERNAL_UTILITY_DATA": plainFile,
	"SYSTEMD_UNIT": plainFile, "SYSTEMD_UNIT_SYMLINK": destLink, "SYSTEMD_SLEEP_SCRIPT": plainFile,
	"SANDBOXUTILS_FILELIST_JSON": withDest,
}

// ReadManifest parses a .manifest, at most 4 MiB of it. A type that it does not
// know, of a driver newer than this program, is kept with name, mode and type
// only. Names that lead out of the tree give ErrContent, as all malformed lines do.
func ReadManifest(r io.Reader) (Manifest, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if len(text) > maxManifest {
		return Manifest{}, wrong("read manifest: more than %d bytes", maxManifest)
	}
	var m Manifest
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if len(line) > maxLine {
			return Manifest{}, wrong("read manifest: line %d is longer than %d bytes", n, maxLine)
		}
		if n == 1 {
			m.head = append(m.head, line)
			continue // a description
		}
		if n == 2 {
			m.head = append(m.head, line)
			v, err := version.Parse(strings.TrimSpace(line))
			if err != nil {
				return Manifest{}, wrong("read manifest: line 2: %w", err)
			}
			m.Version = v
			continue
		}
		if n <= manifestHead && len(m.Entries) == 0 && !looksLikeEntry(line) {
			m.head = append(m.head, line)
			continue
		}
		if strings.TrimSpace(line) == "" {
			break // the installer stops here too
		}
		e, err := parseEntry(line)
		if err != nil {
			return Manifest{}, fmt.Errorf("read manifest: line %d: %w", n, err)
		}
		if len(m.Entries) == maxEntries {
			return Manifest{}, wrong("read manifest: more than %d entries", maxEntries)
		}
		m.Entries, m.lines = append(m.Entries, e), append(m.lines, line)
	}
	if len(m.Entries) == 0 {
		return Manifest{}, wrong("read manifest: no entries in %d lines", n)
	}
	return m, nil
}

// looksLikeEntry tells an entry from the lines at the top, whose number has changed.
func looksLikeEntry(line string) bool {
	w := strings.Fields(line)
	if len(w) < 3 || len(w[1]) < 4 {
		return false
	}
	_, err := parseMode(w[1])
	return err == nil && w[2] == strings.ToUpper(w[2])
}

func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 16)
	if err != nil || mode > 0o7777 {
		return 0, wrong("%.20q is not a file mode", s)
	}
	return uint32(mode), nil
}

func parseEntry(line string) (Entry, error) {
	if !utf8.ValidString(line) || !printable(strings.ReplaceAll(line, "\t", " ")) {
		return Entry{}, wrong("control characters in %.80q", line)
	}
	words := strings.Fields(line)
	if len(words) < 3 {
		return Entry{}, wrong("%.80q has no name, mode and type", line)
	}
	e := Entry{Type: words[2]}
	var err error
	if e.Path, err = insideTree(words[0]); err != nil {
		return Entry{}, err
	}
	if e.Mode, err = parseMode(words[1]); err != nil {
		return Entry{}, err
	}
	rest := words[3:]
	for i, w := range rest {
		if m, ok := strings.CutPrefix(w, "MODULE:"); ok {
			e.Module, rest = m, rest[:i]
			break
		}
	}
	f, known := types[e.Type]
	if known {
		err = e.parseFields(f, rest)
		if err != nil && !places[e.Type].sure {
			// A form that is not known yet, of a file whose place is of no weight here.
			e.Dest, e.Target, err = "", "", nil
		}
	} else {
		e.Compat32 = len(rest) > 0 && rest[0] == "COMPAT32"
	}
	if err != nil {
		return Entry{}, fmt.Errorf("%s %s: %w", e.Type, e.Path, err)
	}
	return e, nil
}

// parseFields reads the fields between type and MODULE.
func (e *Entry) parseFields(f fields, rest []string) error {
	next := func() string {
		if len(rest) == 0 {
			return ""
		}
		w := rest[0]
		rest = rest[1:]
		return w
	}
	if f.arch {
		switch a := next(); a {
		case "NATIVE":
		case "COMPAT32":
			e.Compat32 = true
		default:
			return wrong("architecture %.40q is neither NATIVE nor COMPAT32", a)
		}
		for len(rest) > 0 && choiceWords[rest[0]] {
			e.choice = true
			next()
		}
	}
	if f.dest && (!f.target || len(rest) > 1) {
		dest := next()
		if hasDotDot(dest) {
			return wrong("path %.80q leads elsewhere", dest)
		}
		e.Dest = dest
	}
	if f.inherit {
		return e.inherit(next())
	}
	if f.target {
		if e.Target = next(); e.Target == "" {
			return wrong("a link without target")
		}
	}
	return nil
}

var choiceWords = map[string]bool{"CLASSIC": true, "NEW": true, "GLVND": true, "NON_GLVND": true}

// inherit derives Dest from Path: its folders without the first n.
func (e *Entry) inherit(word string) error {
	depth, ok := strings.CutPrefix(word, "INHERIT_PATH_DEPTH:")
	n, err := strconv.Atoi(depth)
	folders := strings.Split(path.Dir(e.Path), "/")
	if !ok || err != nil || n < 0 || n > len(folders) {
		return wrong("%.60q is not a depth within %.80q", word, e.Path)
	}
	e.Dest = strings.Join(folders[n:], "/")
	if e.Dest == "." {
		e.Dest = ""
	}
	return nil
}

// insideTree returns a path of the unpacked tree without its "./".
func insideTree(name string) (string, error) {
	if strings.HasPrefix(name, "/") || hasDotDot(name) || len(name) > 4095 {
		return "", wrong("path %.80q leads out of the tree", name)
	}
	clean := path.Clean(name)
	if clean == "." || strings.HasSuffix(name, "/") {
		return "", wrong("path %.80q is a folder", name)
	}
	return clean, nil
}

func hasDotDot(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
