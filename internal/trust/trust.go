// Package trust says whether a folder or a file can be relied on by a program
// that runs as root: whether nobody but root (or the user who runs this) could
// have put there what stands in it.
package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Dir refuses a folder in which somebody else could exchange what root reads or
// runs. All folders above it are looked at too, along the path as it is written
// and along those that links lead to, one after the other.
func Dir(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	starts := []string{real}
	for next := path; next != "" && filepath.Clean(next) != real; { // real has no link in it
		if starts = append(starts, next); len(starts) > maxLinks {
			return fmt.Errorf("%s: more than %d links", path, maxLinks)
		}
		if next, err = afterLink(next); err != nil {
			return err
		}
	}
	for _, start := range starts {
		for dir := filepath.Clean(start); ; dir = filepath.Dir(dir) {
			st, err := os.Lstat(dir)
			if err != nil {
				return err
			}
			if err := folder(dir, st, dir == real); err != nil {
				return err
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	return nil
}

// maxLinks is how many links the kernel follows in a path (path_resolution(7)).
const maxLinks = 40

// afterLink is the path that is left when the first link in path was followed, "" when
// there is none in it.
func afterLink(path string) (string, error) {
	if path = filepath.Clean(path); path == "/" || path == "." {
		return "", nil
	}
	dir, name := filepath.Split(path)
	before, err := afterLink(dir)
	if err != nil {
		return "", err
	}
	if before != "" {
		return filepath.Join(before, name), nil
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return "", err
	}
	target, err := os.Readlink(path)
	if err == nil && !filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	return target, err
}

// folder says what is wrong with a part of a path. The last one must not be
// writable for group and others; those above it must only not let others
// exchange it, so the sticky bit of /tmp suffices and a group is let be (Debian's
// /usr/local has long been 2775 root:staff).
func folder(path string, st fs.FileInfo, last bool) error {
	if uid, ok := Owner(st); !ok {
		return hint.Errorf(fmt.Sprintf("chown root:root %s (on NFS: export it with no_root_squash), or set another folder in the configuration", path),
			"%s belongs to uid %d, who could replace what root runs", path, uid)
	}
	mode := st.Mode()
	switch {
	case mode&fs.ModeSymlink != 0:
		return nil
	case !mode.IsDir():
		return fmt.Errorf("%s is not a folder", path)
	case last && mode.Perm()&0o022 != 0:
		return hint.Errorf("chmod go-w "+path, "%s has mode %04o: others than root could replace what root runs", path, mode.Perm())
	case !last && mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0:
		return hint.Errorf("chmod o-w "+path, "%s above it has mode %04o: anybody could replace the folder", path, mode.Perm())
	}
	return nil
}

// MakeDir makes a folder and those above it that are missing, with that mode, and
// refuses it as Dir does.
func MakeDir(path string, mode fs.FileMode) error {
	// Through a link to nowhere, or at a file, MkdirAll fails, and Dir says why.
	if err := os.MkdirAll(path, mode); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	return Dir(path)
}

// File says what is wrong with a file that nobody else should be able to have written.
func File(path string, st fs.FileInfo) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is refused: it is not a regular file (%s)", path, st.Mode().Type())
	}
	if uid, ok := Owner(st); !ok {
		return hint.Errorf("remove it, or chown root: "+path, "%s is refused: it belongs to uid %d, who could replace what root runs", path, uid)
	}
	if mode := st.Mode().Perm(); mode&0o022 != 0 {
		return hint.Errorf("remove it, or chmod go-w "+path, "%s is refused: it has mode %04o, so that others than root could have written it", path, mode)
	}
	return nil
}

// ReadFile reads a file of at most limit bytes. It follows no link, and refuses
// a file that File refuses or whose folder Dir refuses. Where there is no file
// the error is fs.ErrNotExist.
func ReadFile(path string, limit int64) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(Dir(filepath.Dir(path)), File(path, st)); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("read %s: larger than %d bytes", path, limit)
	}
	return data, err
}

// Owner returns whose a file is, and whether that is root or this user.
func Owner(st fs.FileInfo) (uid uint32, ok bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Uid, s.Uid == 0 || s.Uid == uint32(os.Geteuid())
}
