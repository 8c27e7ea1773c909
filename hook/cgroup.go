package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// cgroupOf returns the path of the container's own cgroup (v2) on the host, by that
// of its init process.
func cgroupOf(c *lxc.Container) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid()))
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut("\n"+string(text), "\n0::")
	at, _, _ := strings.Cut(rest, "\n")
	at = strings.TrimSuffix(at, "/init.scope")
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(mount, at, "cgroup.procs")); found && at != "" && at != "/" && err == nil {
			return filepath.Join(mount, at), nil
		}
	}
	return "", errors.New("the container has no cgroup of version 2")
}
