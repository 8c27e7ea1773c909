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
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// ErrBusy means that somebody else holds the lock and Options.Timeout is over.
var ErrBusy = errors.New("locked by another process")

// ErrEnough means that Options.Enough ended the wait: the lock was not taken.
var ErrEnough = errors.New("no longer needed")

const (
	pollFirst = 10 * time.Millisecond
	pollMost  = 100 * time.Millisecond
	sayEvery  = 10 * time.Second
)

// Options say how a lock is taken.
type Options struct {
	Shared  bool          // many may hold it together, but none beside an exclusive holder
	Timeout time.Duration // how long to wait; 0: try once
	Holder  string        // for what, such as "container 101"; written into the file by an exclusive holder, "" writes nothing

	// OnWait is called when the wait begins (but for a lock that is free again
	// after 10 ms) and every 10 s, with the holder in words: "pid 123 on node1
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
	for pause := pollFirst; ; pause = min(2*pause, pollMost) {
		got, err := l.try(o.Shared)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if got {
			if !o.Shared && o.Holder != "" {
				l.written = writeHolder(l.f, path, o.Holder) == nil
			}
			if err := l.keep(); err != nil {
				return nil, fmt.Errorf("lock %s: %w", path, err)
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
			return nil, busy(path, waited)
		}
		if o.OnWait != nil && pause > pollFirst && time.Since(said) >= sayEvery {
			said = time.Now()
			o.OnWait(Holder(path), waited)
		}
		sleep(ctx, min(pause, o.Timeout-waited))
	}
}

// mode is that of lock files: who can open one for reading can hold it.
const mode = 0o600

func busy(path string, waited time.Duration) error {
	holder := Holder(path)
	return hint.Errorf("see what it is doing; it gives the lock back when it ends, also when it is killed",
		"%w: %s is held by %s (waited %s)", ErrBusy, path, holder, waited.Round(time.Second))
}

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

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Release gives the lock back. Further calls do nothing, as does one on nil.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	l.forget()
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
	l.forget()
	err := os.Remove(l.path)
	l.written = false
	return errors.Join(err, l.f.Unlock())
}

// taken are the locks of this process.
var taken = struct {
	sync.Mutex
	all  map[*Lock]bool
	over bool // no more are taken
}{all: map[*Lock]bool{}}

func (l *Lock) keep() error {
	taken.Lock()
	defer taken.Unlock()
	if taken.over {
		_ = l.f.Unlock()
		return errors.New("this process is about to end")
	}
	taken.all[l] = true
	return nil
}

func (l *Lock) forget() {
	taken.Lock()
	defer taken.Unlock()
	delete(taken.all, l)
}

// ReleaseAll gives back what this process still holds; it takes no more. The
// kernel does so when a process ends, but one that hangs in a system call does not
// end. It waits a moment at most: a lock's own file system may hang too.
func ReleaseAll() {
	taken.Lock()
	taken.over = true
	all := slices.Collect(maps.Keys(taken.all))
	taken.Unlock()
	if len(all) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, l := range all {
			_ = l.f.Unlock()
		}
	}()
	select {
	case <-done:
	case <-time.After(releaseWait):
	}
}

// releaseWait is far more than giving back some locks takes.
const releaseWait = 200 * time.Millisecond

// Excludes returns an error when flock on the file system of dir does not keep
// two openers apart, or keeps them apart on this node only though the file
// system is shared with others. dir must be writable.
func Excludes(dir string) error {
	const what = "choose a folder on a file system with working locks, such as ext4, xfs, ZFS, or NFS mounted without nolock and local_lock"
	fail := func(format string, args ...any) error {
		return hint.Errorf(what, "the locks of %s (%s) "+format, append([]any{dir, kind(dir)}, args...)...)
	}
	one, two, err := openTwice(dir)
	if err != nil {
		return fail("cannot be tested: %w", err)
	}
	defer one.Close()
	defer two.Close()

	if err := tryExclusive(one); err != nil {
		return fail("do not work: %w", err)
	}
	switch err := tryExclusive(two); {
	case err == nil:
		return fail("do not exclude: two could hold one")
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return fail("do not work: %w", err)
	}
	if option := localLocks(dir); option != "" {
		return fail("do not reach other nodes: it is mounted with %s", option)
	}
	return nil
}

// openTwice opens a new file in dir twice, as two processes would. Where the file
// system can, the file never has a name, so that a process that is killed here
// leaves nothing. Locks belong to open files, not to names.
func openTwice(dir string) (one, two *os.File, err error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		one = os.NewFile(uintptr(fd), dir)
		if two, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0); err == nil {
			return one, two, nil
		}
		one.Close()
	}
	path := filepath.Join(dir, fmt.Sprintf(".locktest-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if one, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, nil, err
	}
	two, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	_ = os.Remove(path)
	if err != nil {
		one.Close()
		return nil, nil, err
	}
	return one, two, nil
}

func tryExclusive(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
