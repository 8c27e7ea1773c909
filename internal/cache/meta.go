package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// How a run file was verified, in the words of Meta.Verified.
const (
	byPin    = "pinned sha256"
	bySum    = "published sha256"
	byHeader = "header md5 only"
)

// Proof explains Meta.Verified to a reader who does not know that the header's
// checksum is part of the file itself.
func Proof(verified string) string {
	if verified == byHeader {
		return verified + ", which proves that it is complete, not where it comes from"
	}
	return verified
}

// Meta is the .json beside a verified run file.
type Meta struct {
	URL      string    `json:"url,omitempty"` // without credentials; "" when it was put there by hand or by Add
	Size     int64     `json:"size"`
	SHA256   string    `json:"sha256"`
	Verified string    `json:"verified"` // "pinned sha256", "published sha256", "header md5 only"
	At       time.Time `json:"at"`

	// What the tree holds. It is counted before each use: after a loss of power it
	// may have its name but not all its files.
	Files    int   `json:"files,omitempty"`    // folders left out; 0: no tree
	Unpacked int64 `json:"unpacked,omitempty"` // bytes of its files

	// With the size these tell whether the file is still the one that was verified,
	// without reading 400 MB again.
	Inode   uint64 `json:"inode"`
	Changed int64  `json:"changed"` // modification time, ns
}

const maxSmall = 64 << 10 // bytes of metadata, a checksum file, or a reason

func readMeta(path string) (Meta, error) {
	text, err := trust.ReadFile(path, maxSmall)
	if err != nil {
		return Meta{}, err
	}
	m, err := parseMeta(text)
	if err != nil {
		return Meta{}, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

func parseMeta(text []byte) (Meta, error) {
	var m Meta
	if err := json.Unmarshal(text, &m); err != nil {
		return Meta{}, err
	}
	if !isSHA256(m.SHA256) || m.Size <= 0 || m.Verified == "" {
		return Meta{}, errors.New("size, sha256 or verified is missing")
	}
	return m, nil
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

// describes reports whether st is the file that was verified.
func (m Meta) describes(st fs.FileInfo) bool {
	return st.Mode().IsRegular() && m.Size == st.Size() && m.Changed == st.ModTime().UnixNano() && m.Inode == inode(st)
}

func (m *Meta) describe(st fs.FileInfo) {
	m.Size, m.Changed, m.Inode = st.Size(), st.ModTime().UnixNano(), inode(st)
}

func inode(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// whole reports whether the tree holds what was unpacked. Counting takes some
// milliseconds.
func (m Meta) whole(tree string) bool {
	st, err := os.Lstat(tree)
	if err != nil || !st.IsDir() || m.Files == 0 {
		return false
	}
	files, bytes, err := count(tree)
	return err == nil && files == m.Files && bytes == m.Unpacked
}

// count returns how many members a tree has, without its folders, and the bytes
// of its regular files.
func count(tree string) (files int, bytes int64, err error) {
	err = filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		if d.Type().IsRegular() {
			st, err := d.Info()
			if err != nil {
				return err
			}
			bytes += st.Size()
		}
		return nil
	})
	return files, bytes, err
}
