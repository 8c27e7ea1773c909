package record

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// Below returns the folder elem below the state folder, and makes both,
// readable by root only. It refuses a state folder that is a link or that
// others may write: what stands there decides what a root program does.
func Below(state string, elem ...string) (string, error) {
	dir := filepath.Join(append([]string{state}, elem...)...)
	for _, d := range []string{state, dir} {
		if info, err := os.Lstat(d); err == nil && !info.IsDir() {
			return "", hint.Errorf("let paths.state name a folder, not a link to one", "the state folder %s is %v", d, info.Mode())
		}
		if err := trust.MakeDir(d, 0o700); err != nil {
			return "", fmt.Errorf("state folder (paths.state): %w", err)
		}
	}
	return dir, nil
}
