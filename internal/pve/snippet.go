package pve

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// SnippetStands reports whether file is this program's snippet, word for word
// and executable. A file of that name that is not this program's is an error.
func SnippetStands(file string) (bool, error) {
	fi, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > 1<<16 {
		return false, hint.Errorf("move it away", "%s is not a script of pve-nvidia-hook", file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	if bytes.Equal(raw, snippet.Script) {
		return fi.Mode()&0o111 == 0o111, nil
	}
	if !bytes.Contains(raw, []byte("program=/usr/bin/pve-nvidia-hook\n")) {
		return false, hint.Errorf("move it away", "%s is not a script of pve-nvidia-hook", file)
	}
	return false, nil
}

// EnsureSnippet makes file this program's snippet, executable, by a temporary
// file and a rename: a guest that starts meanwhile finds the old or the new one.
func EnsureSnippet(file string) error {
	stands, err := SnippetStands(file)
	if err != nil || stands {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the snippets folder: %w", err)
	}
	f, err := renameio.NewPendingFile(file, renameio.WithStaticPermissions(0o755))
	if err != nil {
		return fmt.Errorf("write the snippet: %w", err)
	}
	defer f.Cleanup()
	if _, err := f.Write(snippet.Script); err != nil {
		return fmt.Errorf("write the snippet: %w", err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write the snippet: %w", err)
	}
	return nil
}

// NoExec reports whether the file system that file lies on, or would lie on,
// runs no programs. Proxmox takes a hookscript there, for it looks at the file's
// mode alone; its exec fails, and in pre-start that keeps the guest from starting.
func NoExec(file string) bool {
	for dir := file; ; dir = filepath.Dir(dir) {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil {
			return fs.Flags&unix.ST_NOEXEC != 0
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}
