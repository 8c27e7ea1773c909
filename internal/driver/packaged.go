package driver

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// notPackaged leaves out of files those that belong to a package, as the
// container's own dpkg or rpm says: to remove them is the package tool's work.
func notPackaged(ctx context.Context, c *lxc.Container, files []string, log say.Log) []string {
	for _, tool := range []struct {
		program []string
		owned   func(lines []string, file string) bool
	}{
		{[]string{"/usr/bin/dpkg-query", "-S"}, func(lines []string, file string) bool {
			return slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, ": "+file) })
		}},
		{[]string{"/usr/bin/rpm", "-qf"}, func(lines []string, file string) bool {
			return !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "file "+file+" is not owned") })
		}},
	} {
		if len(files) == 0 || !executable(c, tool.program[0]) {
			continue
		}
		var lines []string
		_, err := c.Run(ctx, lxc.Cmd{Args: append(tool.program, files...), Env: []string{"LC_ALL=C"}, Timeout: time.Minute,
			OnLine: func(l string) { lines = append(lines, l) }})
		if err != nil {
			log.Warnf("ask %s whose files these are: %v", tool.program[0], err)
			continue
		}
		files = slices.DeleteFunc(slices.Clone(files), func(file string) bool {
			owned := tool.owned(lines, file)
			if owned {
				log.Warnf("%s belongs to a package and stays", file)
			}
			return owned
		})
	}
	return files
}
