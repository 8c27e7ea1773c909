package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

const (
	folderPrefix = "pve-nvidia-hook-demo-"
	// unready begins the name of a folder that has no lock yet.
	unready = ".new-" + folderPrefix
	// young is how long a folder may lack its lock.
	young = time.Minute
)

// folder is where a demo keeps its files. It is locked for as long as the demo
// lives, so that a later one can tell what a killed one has left.
type folder struct {
	path string
	lock *os.File
}

func newFolder() (*folder, error) {
	half, err := os.MkdirTemp("", unready)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(half)
	if err != nil {
		return nil, errors.Join(err, os.Remove(half))
	}
	f := &folder{filepath.Join(filepath.Dir(half), strings.TrimPrefix(filepath.Base(half), ".new-")), lock}
	if err := os.Rename(half, f.path); err != nil {
		lock.Close()
		return nil, errors.Join(err, os.Remove(half))
	}
	return f, nil
}

// remove removes the folder, then its lock.
func (f *folder) remove() error {
	defer f.lock.Close()
	return os.RemoveAll(f.path)
}

func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// sweepFolders removes the folders of demos that were killed: this user's own,
// with nobody's lock and nothing mounted below. Others stay.
func sweepFolders() error {
	var errs []error
	for _, prefix := range []string{folderPrefix, unready} {
		left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
		for _, path := range left {
			if err := sweepFolder(path, prefix == unready); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func sweepFolder(path string, mayLackLock bool) error {
	if st, err := os.Lstat(path); err != nil || !ours(st) || mayLackLock && time.Since(st.ModTime()) < young {
		return nil
	}
	lock, err := lockFolder(path)
	if err != nil {
		return nil // its demo lives, it has gone, or it is no folder
	}
	defer lock.Close()
	st, err := lock.Stat()
	if err != nil || !ours(st) {
		return nil
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(st, now) {
		return nil
	}
	if mounts, err := lab.MountsBelow(path); err != nil || len(mounts) > 0 {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove what a killed demo has left: %w", err)
	}
	return nil
}

func ours(st fs.FileInfo) bool {
	s, ok := st.Sys().(*syscall.Stat_t)
	return ok && s.Uid == uint32(os.Geteuid())
}
