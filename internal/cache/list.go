package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// States of an Item.
const (
	Ready      = "ready"      // verified and unchanged since
	Unverified = "unverified" // put there by hand, or changed since; it is verified before it is used
	Refused    = "refused"    // found wrong and set aside
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
	Damage   string         `json:"damage,omitempty"`   // why it is refused
}

// Advice is what to do about an Item that is refused.
func (it Item) Advice() string { return adviceOnRefused }

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
		return cmp.Or(version.Compare(b.Version, a.Version), cmp.Compare(a.Arch, b.Arch))
	})
	return items, nil
}

func (c *Cache) item(v version.Driver, arch string) (Item, bool) {
	p := c.paths(v, arch)
	it := Item{Version: v, Arch: arch}
	var st fs.FileInfo
	err := fs.ErrNotExist
	for _, at := range []struct{ path, state string }{{p.run, Unverified}, {p.part, Partial}, {p.refused, Refused}} {
		it.Path, it.State = at.path, at.state
		if st, err = os.Lstat(at.path); err == nil {
			break
		}
	}
	if err != nil {
		return it, false
	}
	it.Size, it.LastUsed, it.InUse = st.Size(), st.ModTime(), inUse(p)
	f := c.look(p)
	switch {
	case it.State == Refused:
		text, _ := readSmall(p.reason)
		it.Damage = strings.TrimSpace(string(text))
	case it.State == Unverified && f.same:
		m := f.meta
		it.State, it.SHA256, it.URL, it.Verified, it.At = Ready, m.SHA256, m.URL, m.Verified, m.At
		if f.tree {
			it.TreeSize = m.Unpacked
		}
		if st, err := os.Lstat(p.meta); err == nil {
			it.LastUsed = st.ModTime()
		}
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
