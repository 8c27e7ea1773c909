package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// Check says why this node cannot share the driver. What only a run file shows, such as
// a file system without hard links, is told when it is laid out.
func Check(run, cacheDir string) error {
	const instead = "install the driver in the container: enable it without --share"
	if strings.ContainsAny(run, " \t\\:,") { // the container's line parts its words by these
		return hint.Errorf("set paths.run to a folder without blanks, colons and commas, or "+instead, "a container cannot mount from %q", run)
	}
	for dir := run; ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err == nil && st.Mode()&0o001 == 0 {
			return hint.Errorf(fmt.Sprintf("chmod o+x %s, or %s", dir, instead), "unprivileged containers cannot mount from %s: others may not enter %s", run, dir)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for dir := cacheDir; ; dir = filepath.Dir(dir) {
		err := lxc.CanMount(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue // the cache is made by the first download
		}
		if err != nil {
			return hint.Wrap(fmt.Errorf("share the driver: %w", err), "set cache.dir to a folder of a local disk, or "+instead)
		}
		return nil
	}
}
