package driver

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// AskRPM completes what Blockers or SharedBlockers has found: rpm is asked in the
// container which driver packages it has, where no other package tool is at home.
func AskRPM(ctx context.Context, c *lxc.Container, arch string, found []Blocker, log say.Log) []Blocker {
	if has(c, dpkgStatus) || !executable(c, "/usr/bin/rpm") {
		return found
	}
	names, err := rpmDriverPackages(ctx, c, arch)
	if err != nil {
		log.Warnf("ask rpm for packages of the driver: %v", err)
		return found
	}
	found = slices.DeleteFunc(found, func(b Blocker) bool { return b.Guess })
	if len(names) > 0 {
		remove := "dnf remove"
		if distribution(c) == suse {
			remove = "zypper remove --clean-deps"
		}
		found = append(found, packaged(names, Look(c, arch).Version(), remove))
	}
	return found
}

// rpmDriverPackages are the installed packages with a name of the driver's, and
// those that own the libraries by which a driver is known.
func rpmDriverPackages(ctx context.Context, c *lxc.Container, arch string) ([]string, error) {
	var names []string
	ask := func(is func(string) bool, args ...string) error {
		_, err := c.Run(ctx, lxc.Cmd{Args: append([]string{"/usr/bin/rpm"}, args...), Env: []string{"LC_ALL=C"}, Timeout: time.Minute, OnLine: func(l string) {
			if cudapkg.IsName(l) && is(l) && !slices.Contains(names, l) && len(names) < packagesMost {
				names = append(names, l)
			}
		}})
		return err
	}
	err := ask(driverPackage, "-qa", "--qf", "%{NAME}\\n")
	for _, dir := range libdirs(c, arch) {
		for _, link := range []string{cudaLink, nvmlLink} {
			if err == nil && has(c, path.Join(dir, link)) { // of one without owner rpm says so in a sentence
				err = ask(func(string) bool { return true }, "-qf", "--qf", "%{NAME}\\n", path.Join(dir, link))
			}
		}
	}
	return names, err
}

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
