package cuda

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

const zypperRepoFile = "/etc/zypp/repos.d/" + rpmRepoID + ".repo"

// zypper is zypper of openSUSE and SLES at work for a job.
type zypper struct{ *job }

// command is a command line of zypper; ZYPP_LOCK_TIMEOUT lets it wait for another one (seconds).
func (z *zypper) command(verb string, more ...string) []string {
	return append([]string{"env", fmt.Sprintf("ZYPP_LOCK_TIMEOUT=%d", int(z.w.LockWait/time.Second)),
		"zypper", "--non-interactive", "--gpg-auto-import-keys", "--xmlout", verb}, more...)
}

// zypper's informational statuses (its manual, "EXIT CODES"): the work is done.
const (
	rebootNeeded  = 102 // a reboot is suggested
	restartNeeded = 103 // zypper itself was updated
	nothingFound  = 104
	repoSkipped   = 106
	scriptFailed  = 107 // a package's script, after its files were installed
)

func informs(code int) bool {
	return slices.Contains([]int{rebootNeeded, restartNeeded, repoSkipped, scriptFailed}, code)
}

// must is the must of all, which knows what is no failure to zypper. Whether the
// toolkit works is seen from nvcc.
func (z *zypper) must(o output, err error, what string) error {
	if err != nil || !informs(o.code) {
		return must(o, err, what)
	}
	switch o.code {
	case repoSkipped:
		z.log.Warnf("%s in the container skipped a repository that it could not refresh: %s", what, o.tail(2))
	case scriptFailed:
		z.log.Warnf("%s in the container: a package's script failed: %s", what, o.tail(2))
	}
	return nil
}

// lock is a change of zypper's list of packages that it must not install: a
// repository file has no such line for zypper.
func (z *zypper) lock(verb string) []string {
	return z.command(verb, append([]string{"--type", "package", "--repo", rpmRepoID}, cudapkg.RPMDriver...)...)
}

func (z *zypper) prepare(ctx context.Context) error {
	key, err := z.keyName(ctx)
	if err != nil {
		return err
	}
	if err := z.put(zypperRepoFile, rpmRepoText(z.repo, key, nil)); err != nil {
		return err
	}
	out, err := z.run(ctx, z.lock("addlock")...)
	if err := z.must(out, err, "zypper addlock"); err != nil {
		return err
	}
	return z.retry(ctx, lists, func() (bool, error) {
		out, err := z.run(ctx, z.command("refresh", rpmRepoID)...)
		if err != nil {
			return false, err
		}
		return true, z.must(out, nil, "zypper refresh")
	})
}

// element is a package in zypper's XML, or the begin or end of a section of
// them. A package may have its description within.
var (
	element   = lazy.Regexp(`<(/?)(solvable|to-[a-z-]+)\b[^<>]*>`)
	attribute = lazy.Regexp(`\b(name|edition|kind|type)="([^"]*)"`)
)

func attributes(element string) map[string]string {
	all := map[string]string{}
	for _, m := range attribute().FindAllStringSubmatch(element, -1) {
		all[m[1]] = m[2]
	}
	return all
}

// parseZypper reads zypper's XML of a dry run. A section that is not known here
// (to-change-vendor, to-change-arch) changes packages.
func parseZypper(text string) plan {
	var p plan
	section := ""
	for _, m := range element().FindAllStringSubmatch(text, -1) {
		end, tag := m[1] != "", m[2]
		if tag != "solvable" {
			if section = tag; end {
				section = ""
			}
			continue
		}
		a := attributes(m[0])
		if end || a["type"] != "" && a["type"] != "package" {
			continue
		}
		switch section {
		case "":
		case "to-install":
			p.fresh = append(p.fresh, a["name"])
		case "to-remove":
			p.remove = append(p.remove, a["name"])
		default:
			p.newer = append(p.newer, a["name"])
		}
	}
	return p
}

func (z *zypper) toolkits(ctx context.Context) ([]available, error) {
	out, err := z.run(ctx, z.command("search", "--details", "--type", "package", "--repo", rpmRepoID, "cuda-toolkit-*")...)
	if err == nil && out.code == nothingFound {
		return nil, nil
	}
	if err := z.must(out, err, "zypper search"); err != nil {
		return nil, err
	}
	return parseZypperSearch(string(out.stdout)), nil
}

func parseZypperSearch(text string) []available {
	var pairs [][2]string
	for _, m := range element().FindAllStringSubmatch(text, -1) {
		a := attributes(m[0])
		pairs = append(pairs, [2]string{a["name"], a["edition"]})
	}
	return collect(pairs)
}

func (z *zypper) install(ctx context.Context, names []string) error {
	out, err := z.run(ctx, z.command("install", append([]string{"--dry-run", "--no-recommends"}, names...)...)...)
	if err != nil {
		return err
	}
	p := parseZypper(string(out.stdout))
	if out.code != 0 && !informs(out.code) {
		if name, ok := driverIn(out.lines); ok {
			return refuseDriver(name, names, out.tail(4))
		}
		return z.must(out, nil, "zypper install --dry-run")
	}
	if err := judgeRPM(p, names); err != nil || p.empty() {
		return err
	}
	if err := z.note(p.fresh, bareNames(names)); err != nil {
		return err
	}
	out, err = z.run(ctx, z.command("install", append([]string{"--no-recommends", "--auto-agree-with-licenses"}, names...)...)...)
	return z.must(out, err, "zypper install")
}

// prune leaves what an earlier run installed: zypper cannot tell what came in
// with a package and is needed by nothing else now.
func (z *zypper) prune(_ context.Context, names []string) error {
	keep := bareNames(names)
	for _, n := range z.in.Asked {
		if !slices.Contains(keep, n) {
			z.log.Infof("%s of an earlier run stays in the container beside the new one", n)
		}
	}
	return nil
}

// remove takes away the packages that came in, unless others would go with them.
func (z *zypper) remove(ctx context.Context) error {
	have, err := z.rpmInstalled(ctx, z.in.Added)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		out, err := z.run(ctx, z.command("remove", append([]string{"--dry-run"}, have...)...)...)
		if err := z.must(out, err, "zypper remove --dry-run"); err != nil {
			return err
		}
		for _, n := range parseZypper(string(out.stdout)).remove {
			if !slices.Contains(have, n) {
				return fmt.Errorf("removing the toolkit's packages would remove %s too", say.Clean(n, 100))
			}
		}
		out, err = z.run(ctx, z.command("remove", have...)...)
		if err := z.must(out, err, "zypper remove"); err != nil {
			return err
		}
		if z.in.Added, err = z.rpmInstalled(ctx, z.in.Added); err != nil {
			return err
		}
	}
	out, err := z.run(ctx, z.lock("removelock")...)
	return z.must(out, err, "zypper removelock")
}
