// Package cache keeps run files and their unpacked trees in one folder for all
// containers of a node or a cluster. However many containers ask at once, a file
// is downloaded and unpacked once.
//
// A run file is in one of three states. It is ready: its .json says how it was
// verified, and it has not changed since. It is unverified: somebody put it there,
// or it has changed; it is verified before it is used. Or it is refused: a
// verification found it wrong and renamed it to .run.refused, with the reason beside
// it, until a good one has taken its place.
package cache

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Cache is a cache folder.
type Cache struct {
	Dir           string
	LockTimeout   time.Duration // 0: 15 minutes
	DownloadLimit time.Duration // of one download, with all its URLs; 0: 30 minutes
	Proxy         string        // http(s) proxy URL when the environment names none
	Log           Log           // nil: nothing is said
	Holder        string        // "container 101", written into the lock file beside pid and host
	Terminal      io.Writer     // shows how far a download is; nil: a line to Log every few seconds

	pace pace
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer's
}

// pace is how patient a download is. Tests make it quicker.
type pace struct {
	tries   int              // of a request; 0: 4
	wait    time.Duration    // after the first failure, doubled after each further one; 0: 1 s
	longest time.Duration    // wait; 0: 30 s
	answer  time.Duration    // for the beginning of an answer; 0: 1 min
	ticks   <-chan time.Time // ends the windows in which the speed is measured; nil: one a minute
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
	Tree            bool  // the unpacked tree is needed
	NoFetch         error // why nothing is downloaded; what is there is used all the same
}

// Entry is a verified run file of the cache. It is in use until Release: nothing
// removes it meanwhile.
type Entry struct {
	RunFile string // path
	Tree    string // path of the unpacked tree; "" when it was not asked for
	Report  runfile.Report
	Meta    Meta
	Fetched bool // this call downloaded it

	lock *lock.Lock
}

// Release ends the use of an entry. Further calls do nothing.
func (e *Entry) Release() {
	if e != nil {
		_ = e.lock.Release()
	}
}

// or returns the value of a setting, or its default when it is zero.
func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (c *Cache) log() Log {
	if c.Log == nil {
		return silence{}
	}
	return c.Log
}

type silence struct{}

func (silence) Infof(string, ...any)  {}
func (silence) Warnf(string, ...any)  {}
func (silence) Debugf(string, ...any) {}
