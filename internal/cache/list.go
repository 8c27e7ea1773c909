package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// States of an Item.
const (
	Ready      = "ready"      // verified and unchanged since
	Unverified = "unverified" // put there by hand and not used yet
	Changed    = "changed"    // not the file that was verified; it is verified again before it is used
	Damaged    = "damaged"    // a verification found it wrong; it is fetched again when it is needed
	Refused    = "refused"    // a verification found it wrong, and it was not fetched from a URL: a person has to remove it
	Partial    = "partial"    // a download that was broken off or is under way
)

// Item is what the folder holds of one run file.
type Item struct {
	Version  version.Driver `json:"version"`
	Arch     string         `json:"arch"`
	Path     string         `json:"path"`
	State    string         `json:"state"`
	Size     int64          `json:"size"`      // bytes of the run file, or of its part
	TreeSize int64          `json:"tree_size"` // bytes of the unpacked tree; 0: none
	SHA256   string         `json:"sha256,omitempty"`
	URL      string         `json:"url,omitempty"` // "" when it was put there by hand or by Add
	Verified string         `json:"verified,omitempty"`
	At       time.Time      `json:"at,omitzero"`        // of the verification
	LastUsed time.Time      `json:"last_used,omitzero"` // about
	InUse    bool           `json:"in_use"`             // a run works on it or with it just now
	Damage   string         `json:"damage,omitempty"`
}

// List returns what the folder holds, the newest version first. It changes
// nothing, and a missing folder holds nothing.
func (c *Cache) List() ([]Item, error) {
	names, err := os.ReadDir(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the cache: %w", err)
	}
	var items []Item
	seen := map[string]bool{}
	for _, d := range names {
		v, arch, ending, ok := parseName(d.Name())
		if !ok || ending == endLock || ending == endSum || seen[base(v, arch)] {
			continue
		}
		seen[base(v, arch)] = true
		if it, ok := c.item(v, arch); ok {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b Item) int {
		if n := version.Compare(b.Version, a.Version); n != 0 {
			return n
		}
		return compareText(a.Arch, b.Arch)
	})
	return items, nil
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (c *Cache) item(v version.Driver, arch string) (Item, bool) {
	p := c.paths(v, arch)
	it := Item{Version: v, Arch: arch, Path: p.run}
	st, err := os.Lstat(p.run)
	if err != nil {
		part, err := os.Lstat(p.part)
		if err != nil {
			return it, false
		}
		it.State, it.Size, it.LastUsed, it.Path = Partial, part.Size(), part.ModTime(), p.part
		it.InUse = inUse(p)
		return it, true
	}
	f := c.look(p)
	it.Size, it.LastUsed, it.InUse = st.Size(), st.ModTime(), inUse(p)
	switch {
	case f.meta == nil, !f.same && f.meta.SHA256 == "": // the one that was found wrong has gone
		it.State = Unverified
		return it, true
	case !f.same:
		it.State = Changed
		if f.own() {
			it.URL = f.meta.URL
		}
		return it, true
	case f.meta.Damaged != "" && f.meta.URL == "":
		it.State, it.Damage = Refused, f.meta.Damaged
	case f.meta.Damaged != "":
		it.State, it.Damage = Damaged, f.meta.Damaged
	default:
		it.State = Ready
	}
	it.SHA256, it.URL, it.Verified, it.At = f.meta.SHA256, f.meta.URL, f.meta.Verified, f.meta.At
	if f.tree {
		it.TreeSize = f.meta.Unpacked
	}
	if st, err := os.Lstat(p.meta); err == nil {
		it.LastUsed = st.ModTime()
	}
	return it, true
}

// inUse tries the lock for a moment. Who cannot even open it learns nothing.
func inUse(p paths) bool {
	if _, err := os.Lstat(p.lock); err != nil {
		return false
	}
	l, err := lock.Take(context.Background(), p.lock, lock.Options{})
	_ = l.Release()
	return errors.Is(err, lock.ErrBusy)
}
