// Package cache keeps run files and their unpacked trees in one folder for all
// containers of a node (or of a cluster): one download and one unpacking,
// however many containers ask at once.
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
	Dir         string
	LockTimeout time.Duration // 0: 15 minutes
	Proxy       string        // http(s) proxy URL when the environment names none
	Log         Log           // nil: nothing is said
	Holder      string        // "container 101", put into the lock file beside pid and host

	Bar   io.Writer     // a terminal for a progress bar; nil: a plain line to Log every few seconds
	Stall time.Duration // a transfer that brings next to nothing for so long is broken off; 0: 60 s

	pace pace
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer's
}

// pace is how patiently requests are repeated.
type pace struct {
	tries   int           // of a request; 0: 4
	wait    time.Duration // after the first failure, doubled after each further one; 0: 1 s
	longest time.Duration // wait; 0: 30 s
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

	lock *lock.Lock
}

// Release ends the use of an entry. Further calls do nothing.
func (e *Entry) Release() {
	if e != nil {
		_ = e.lock.Release()
	}
}

func (c *Cache) lockTimeout() time.Duration {
	if c.LockTimeout > 0 {
		return c.LockTimeout
	}
	return 15 * time.Minute
}

func (c *Cache) stall() time.Duration {
	if c.Stall > 0 {
		return c.Stall
	}
	return time.Minute
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
