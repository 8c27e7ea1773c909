// Package lock makes processes take turns by flock(2) on a file. Who holds it
// writes into the file who it is, so that those who wait can say for whom. The
// lock itself is the kernel's and ends with the process, however it ends: what a
// killed holder leaves in the file is only text.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// ErrBusy means that somebody else holds the lock and Options.Timeout is over.
var ErrBusy = errors.New("locked by another process")

// ErrEnough means that Options.Enough ended the wait: the lock was not taken.
var ErrEnough = errors.New("no longer needed")

const (
	pollFirst   = 10 * time.Millisecond
	pollLongest = 100 * time.Millisecond
	sayEvery    = time.Minute
)

// Options say how a lock is taken.
type Options struct {
	Shared  bool          // many may hold it together, but none beside an exclusive holder
	Timeout time.Duration // how long to wait; 0: try once
	Holder  string        // for what, such as "container 101"; written into the file by an exclusive holder, "" writes nothing

	// OnWait is called when the wait begins (not for a lock that is free again
	// after 10 ms) and every minute, with the holder in words: "pid 123 on node1
	// for container 101 since 12:01:02".
	OnWait func(holder string, waited time.Duration)

	// Enough is asked after each failed try; true ends the wait with ErrEnough.
	// It serves those who wait for the work that the holder does, not for the lock.
	Enough func() bool
}

// Lock is a lock that is held, until Release.
type Lock struct {
	f       *flock.Flock
	path    string
	written bool
}

// Take locks the file path, which is made (for its owner alone) when it is missing; its
// folder must exist. It waits at most o.Timeout and returns ErrBusy (wrapped)
// with the holder's name after that, ErrEnough, or the error of ctx.
func Take(ctx context.Context, path string, o Options) (*Lock, error) {
	flag := os.O_CREATE | os.O_RDWR
	if o.Shared {
		// Reading is enough for a shared lock and possible on a read-only file system.
		flag = os.O_CREATE | os.O_RDONLY
	}
	// Go opens every file with O_CLOEXEC: what this process starts does not inherit the lock.
	l := &Lock{path: path, f: flock.New(path, flock.SetPermissions(mode),
		flock.SetFlag(flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK))}

	start := time.Now()
	var said time.Time
	for pause := pollFirst; ; pause = min(2*pause, pollLongest) {
		got, err := l.try(o.Shared)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if got {
			if !o.Shared && o.Holder != "" {
				l.written = writeHolder(l.f, path, o.Holder) == nil
			}
			return l, nil
		}
		if o.Enough != nil && o.Enough() {
			return nil, ErrEnough
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for lock %s, held by %s: %w", path, Holder(path), err)
		}
		waited := time.Since(start)
		if waited >= o.Timeout {
			return nil, hint.Errorf("see what it is doing; it gives the lock back when it ends, also when it is killed",
				"%w: %s is held by %s (waited %s)", ErrBusy, path, Holder(path), waited.Round(time.Second))
		}
		if o.OnWait != nil && pause > pollFirst && time.Since(said) >= sayEvery {
			said = time.Now()
			o.OnWait(Holder(path), waited)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(pause, o.Timeout-waited)):
		}
	}
}

// mode is that of lock files: who can open one for reading can hold it.
const mode = 0o600

// try takes the lock if it is free. A file that was removed or exchanged after
// it was opened locks nobody out: then another is opened.
func (l *Lock) try(shared bool) (bool, error) {
	for range 10 {
		take := l.f.TryLock
		if shared {
			take = l.f.TryRLock
		}
		got, err := take()
		if err != nil || !got {
			return false, err
		}
		held, err := l.f.Stat()
		if err != nil {
			_ = l.f.Unlock()
			return false, err
		}
		if !held.Mode().IsRegular() {
			_ = l.f.Unlock()
			return false, fmt.Errorf("not a regular file (%s)", held.Mode().Type())
		}
		there, err := os.Lstat(l.path)
		if err == nil && os.SameFile(held, there) {
			if held.Mode().Perm() != mode {
				_ = os.Chmod(l.path, mode) // made by an older version
			}
			return true, nil
		}
		_ = l.f.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// Release gives the lock back. Further calls do nothing, as does one on nil.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	if l.written {
		// While it is still held, so that no other holder's text is cut.
		l.written = false
		_ = os.Truncate(l.path, 0)
	}
	return l.f.Unlock()
}

// Remove removes the lock file and gives the lock back. Only an exclusive
// holder may call it; those who wait for the removed file notice.
func (l *Lock) Remove() error {
	err := os.Remove(l.path)
	l.written = false
	return errors.Join(err, l.f.Unlock())
}
