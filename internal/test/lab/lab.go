// Package lab makes real throwaway LXC containers for tests, demo and bench.
//
// A lab is a folder with an lxcpath of its own. Containers in it stand on a base
// root that is built once and kept; each gets an overlay over it, so that making
// one takes some milliseconds. Everything needs root. A lab belongs to the
// process that opened it, by a lock that ends with it: what a process that died
// has left is found and removed when the next lab is opened.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// EnvDir names the variable that moves the lab's folder away from DefaultDir.
const EnvDir = "PVE_NVIDIA_HOOK_LAB"

// DefaultDir is where base roots and running labs are kept.
const DefaultDir = "/var/tmp/pve-nvidia-hook-lab"

// Shift is the host's id of the root of an unprivileged container, and IDs is
// how many ids it has, as in Proxmox VE.
const (
	Shift = 100000
	IDs   = 65536
)

// Lab is one lxcpath and the containers in it.
type Lab struct {
	Dir  string // everything of this lab
	Path string // the lxcpath, for lxc-start -P
	home string // the folder that holds all labs and base roots
	lock *os.File

	mu         sync.Mutex
	containers []*Container
}

// Dir returns the folder that holds all labs and base roots.
func Dir() string {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir
	}
	return DefaultDir
}

// Open makes a lab, after it has removed what labs of dead processes have left.
func Open(ctx context.Context) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, fmt.Errorf("open a lab: %w", err)
	}
	home, err := makeHome()
	if err != nil {
		return nil, fmt.Errorf("open a lab: %w", err)
	}
	if err := Sweep(ctx); err != nil {
		return nil, fmt.Errorf("open a lab: %w", err)
	}
	l := &Lab{home: home}
	// The lock is taken before the folder has its final name: a sweep by
	// another process sees either no lab or one with a living owner.
	half, err := os.MkdirTemp(filepath.Join(home, "labs"), ".new-")
	if err != nil {
		return nil, fmt.Errorf("open a lab: %w", err)
	}
	fail := func(err error) (*Lab, error) {
		if l.lock != nil {
			l.lock.Close()
		}
		os.RemoveAll(half)
		return nil, fmt.Errorf("open a lab: %w", err)
	}
	if l.lock, err = lockFile(filepath.Join(half, "owner"), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fail(err)
	}
	if _, err := fmt.Fprintln(l.lock, os.Getpid()); err != nil {
		return fail(err)
	}
	if err := openFolders(half, filepath.Join(half, "lxc")); err != nil {
		return fail(err)
	}
	l.Dir = filepath.Join(home, "labs", strings.TrimPrefix(filepath.Base(half), ".new-"))
	l.Path = filepath.Join(l.Dir, "lxc")
	if err := os.Rename(half, l.Dir); err != nil {
		return fail(err)
	}
	return l, nil
}

// Close stops and removes every container of the lab, and the lab.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := make([]error, len(l.containers))
	var group sync.WaitGroup
	for i, c := range l.containers {
		group.Go(func() { failed[i] = c.remove() })
	}
	group.Wait()
	l.containers = nil
	failed = append(failed, demolish(l.Dir))
	if l.lock != nil {
		failed = append(failed, l.lock.Close())
		l.lock = nil
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("close lab %s: %w", l.Dir, err)
	}
	return nil
}

// makeHome makes the folder of all labs. Its name is known to everybody and
// /var/tmp is writable for all, so one that is not root's own is refused.
func makeHome() (string, error) {
	home := Dir()
	if err := openFolders(home, filepath.Join(home, "labs"), filepath.Join(home, "base")); err != nil {
		return "", err
	}
	info, err := os.Lstat(home)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || st.Uid != 0 || info.Mode().Perm()&0o022 != 0 {
		return "", hint.Errorf("remove it, or set "+EnvDir+" to another folder",
			"folder %s is not root's alone", home)
	}
	return home, nil
}

// openFolders makes folders that the root of an unprivileged container can pass
// through, whatever the umask is.
func openFolders(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}
