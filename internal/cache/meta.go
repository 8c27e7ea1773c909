package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a run file was verified, in the words of Meta.Verified.
const (
	byPin    = "pinned sha256"
	bySum    = "published sha256"
	byHeader = "header md5 only"
)

// Proof is what Meta.Verified tells a reader who does not know that the header's
// checksum travels in the file itself.
func Proof(verified string) string {
	if verified == byHeader {
		return verified + ", which proves that it is whole, not where it is from"
	}
	return verified
}

// Meta stands beside a run file as its .json.
type Meta struct {
	URL      string    `json:"url,omitempty"` // without credentials; "" when it was put there by hand or by Add
	Size     int64     `json:"size"`
	SHA256   string    `json:"sha256"`
	Verified string    `json:"verified"` // "pinned sha256", "published sha256", "header md5 only"
	At       time.Time `json:"at"`

	Files    int    `json:"files,omitempty"`    // in the tree
	Unpacked int64  `json:"unpacked,omitempty"` // bytes in the tree's files
	Damaged  string `json:"damaged,omitempty"`  // what a later verification found wrong, or the first one

	// The run file and the tree that were verified, so that an exchanged one is
	// noticed without reading 400 MB again.
	Inode     uint64 `json:"inode"`
	Changed   int64  `json:"changed"`              // modification time, ns
	Born      int64  `json:"born,omitempty"`       // birth time, ns, where the file system keeps one
	TreeInode uint64 `json:"tree_inode,omitempty"` // 0: no tree
	TreeMade  int64  `json:"tree_made,omitempty"`  // modification time of its top folder, ns
	Boot      string `json:"boot,omitempty"`       // boot id under which the tree was written, or counted last
}

const metaMost = 64 << 10

func readMeta(path string) (Meta, error) {
	text, err := ReadFile(path, metaMost)
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
	if m.Damaged == "" && (!isSHA256(m.SHA256) || m.Size <= 0 || m.Verified == "") {
		return Meta{}, errors.New("it says nothing useful")
	}
	return m, nil
}

func writeMeta(path string, m Meta) error {
	return writeJSON(path, m)
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(text, '\n'))
}

// describes reports whether st is the file that was verified.
func (m Meta) describes(st fs.FileInfo) bool {
	return m.Size == st.Size() && m.Changed == st.ModTime().UnixNano() && m.Inode == inode(st)
}

// describe notes which file it is that bears the name run.
func (m *Meta) describe(run string, st fs.FileInfo) {
	m.Size, m.Changed, m.Inode, m.Born = st.Size(), st.ModTime().UnixNano(), inode(st), born(run)
}

// changedInPlace reports whether the file at run is the one that was verified,
// with another content or time. A new file may well get the inode of a removed one,
// so without a birth time it is not.
func (m Meta) changedInPlace(run string, st fs.FileInfo) bool {
	return st.Mode().IsRegular() && inode(st) == m.Inode && m.Born != 0 && m.Born == born(run)
}

func born(name string) int64 {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
}

func inode(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// boot returns the id of this boot of the node.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// whole reports whether the tree is the one that was unpacked and is complete.
// A rename publishes it, which a loss of power can outlive while the files'
// content does not: the first look after another boot (or from another node)
// therefore counts files and bytes, which takes milliseconds.
func (m Meta) whole(tree string) bool {
	st, err := os.Lstat(tree)
	if err != nil || !st.IsDir() || m.TreeInode == 0 || inode(st) != m.TreeInode || st.ModTime().UnixNano() != m.TreeMade {
		return false
	}
	if m.Boot != "" && m.Boot == boot() {
		return true
	}
	files, bytes, err := count(tree)
	return err == nil && files == m.Files && bytes == m.Unpacked
}

// count returns how many members a tree has, folders left out, and the bytes of its regular files.
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
