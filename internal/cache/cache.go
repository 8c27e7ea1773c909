// Package cache keeps run files and their unpacked trees in one folder for all
// containers of a node (or of a cluster): one download and one unpacking,
// however many containers ask at once.
package cache

import (
	"context"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Cache is a cache folder.
type Cache struct {
	Dir         string
	LockTimeout time.Duration
	Proxy       string // http(s) proxy URL when the environment names none
	Log         Log
	Holder      string // "container 101", put into the lock file beside pid and host
}

// Log takes what the cache has to say while it works.
type Log interface {
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
	Debugf(format string, args ...any)
}

// Want names a run file and where it may come from.
type Want struct {
	Version         version.Driver
	Arch            string   // x86_64 or aarch64
	URLs            []string // templates: {version} {arch} {os_arch} {file}
	SHA256          string   // pinned, or ""
	RequireChecksum bool
	Tree            bool // the unpacked tree is needed
}

// Entry is a verified run file of the cache, in use until Release: nothing prunes it meanwhile.
type Entry struct {
	RunFile string // path
	Tree    string // path of the unpacked tree; "" when it was not asked for
	Report  runfile.Report
	Meta    Meta
	Fetched bool // this call downloaded it
}

// Meta stands beside a run file as its .json.
type Meta struct {
	URL      string    `json:"url,omitempty"`
	Size     int64     `json:"size"`
	SHA256   string    `json:"sha256"`
	Verified string    `json:"verified"` // "pinned sha256", "published sha256", "header md5 only"
	At       time.Time `json:"at"`
}

// Get returns the wanted run file, from the folder or from the first URL that
// has it. One process at a time works on a run file; the others wait, at most LockTimeout, and then find it.
func (c *Cache) Get(ctx context.Context, w Want) (*Entry, error) { panic("todo") }

// Release ends the use of an entry.
func (e *Entry) Release() { panic("todo") }

// FileName returns NVIDIA's name for a run file: NVIDIA-Linux-x86_64-580.76.05.run.
func FileName(v version.Driver, arch string) string { panic("todo") }
