package driver

import (
	"context"
	"fmt"
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
			if cudapkg.IsName(l) && is(l) && !slices.Contains(names, l) && len(names) < maxPackages {
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

// notPackaged returns those of the files of which the container's own dpkg and rpm
// say that no package owns them. All others stay: to remove them is the work of the
// package tool.
func notPackaged(ctx context.Context, c *lxc.Container, files []string, log say.Log) []string {
	for _, tool := range []struct{ program, option, says string }{
		{"/usr/bin/dpkg-query", "-S", "no path found matching pattern "},
		{"/usr/bin/rpm", "-qf", "is not owned by any package"},
	} {
		if len(files) == 0 || !executable(c, tool.program) {
			continue
		}
		free := map[string]bool{}
		_, err := c.Run(ctx, lxc.Cmd{Args: append([]string{tool.program, tool.option}, files...), Env: []string{"LC_ALL=C"}, Timeout: time.Minute, OnLine: func(l string) {
			if strings.Contains(l, tool.says) {
				for word := range strings.FieldsSeq(l) {
					free[word] = true
				}
			}
		}})
		isFree := func(file string) bool { return free[file] }
		stay := slices.DeleteFunc(slices.Clone(files), isFree)
		files = slices.DeleteFunc(files, func(file string) bool { return !isFree(file) })
		if err == nil {
			err = fmt.Errorf("%s does not say that no package owns them", tool.program)
		}
		if len(stay) > 0 {
			log.Warnf("%s of another driver stay in the container, the first is %s: %v", say.Count(len(stay), "file"), stay[0], err)
		}
	}
	return files
}
