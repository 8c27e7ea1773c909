package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Below returns the folder elem below the state folder, and makes both,
// readable by root only. It refuses a state folder that is a link or that
// others may write: what stands there decides what a root program does.
func Below(state string, elem ...string) (string, error) {
	if err := os.MkdirAll(state, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the state folder: %w", err)
	}
	info, err := os.Lstat(state)
	if err != nil {
		return "", fmt.Errorf("look at the state folder: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return "", hint.Errorf("let paths.state name a folder that only root may write, not a link to one",
			"the state folder %s is %v, so others could change what is kept there", state, info.Mode())
	}
	dir := filepath.Join(append([]string{state}, elem...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder below the state folder: %w", err)
	}
	return dir, nil
}
