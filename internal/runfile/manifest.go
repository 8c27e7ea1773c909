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
	_, known := places[e.Type]
	if known || kernel(e) {
		err = e.parseFields(rest)
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

// parseFields reads the fields between type and MODULE. Which of them a type has
// stands in the type table of nvidia-installer's published sources (390 to 590), and
// shows in the line: the architecture is one of two words, a link's target is last,
// and what is left is the path.
func (e *Entry) parseFields(rest []string) error {
	if len(rest) > 0 && (rest[0] == "NATIVE" || rest[0] == "COMPAT32") {
		e.Compat32 = rest[0] == "COMPAT32"
		rest = rest[1:]
	} else if places[e.Type].arch() {
		return wrong("architecture %.40q is neither NATIVE nor COMPAT32", strings.Join(rest, " "))
	}
	for len(rest) > 0 && choiceWords[rest[0]] {
		e.choice = true
		rest = rest[1:]
	}
	if strings.HasSuffix(e.Type, "_SYMLINK") || strings.HasSuffix(e.Type, "_NEWSYM") {
		if len(rest) == 0 {
			return wrong("a link without target")
		}
		e.Target = rest[len(rest)-1]
		rest = rest[:len(rest)-1]
	}
	word := ""
	if len(rest) > 0 {
		word = rest[0]
	}
	if places[e.Type].base == firmware || strings.HasPrefix(word, "INHERIT_PATH_DEPTH:") {
		return e.inherit(word)
	}
	if hasDotDot(word) {
		return wrong("path %.80q leads elsewhere", word)
	}
	e.Dest = word
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
