package cuda

import (
	"context"
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

const zypperRepoFile = "/etc/zypp/repos.d/" + rpmRepoID + ".repo"

// zypper is zypper of openSUSE and SLES at work for a job.
type zypper struct{ rpm }

// command is a command line of zypper; ZYPP_LOCK_TIMEOUT lets it wait for another one (seconds).
func (z *zypper) command(verb string, more ...string) []string {
	return append([]string{"env", fmt.Sprintf("ZYPP_LOCK_TIMEOUT=%d", int(z.w.LockWait/time.Second)),
		"zypper", "--non-interactive", "--xmlout", verb}, more...)
}

// zypper's statuses (its manual, "EXIT CODES"). From 102 on the work is done.
const (
	rebootNeeded  = 102 // a reboot is suggested
	restartNeeded = 103 // zypper itself was updated
	nothingFound  = 104
	repoSkipped   = 106
	scriptFailed  = 107 // a package's script, after its files were installed
)

var tag = lazy.Regexp(`<[^<>]*>`)

// zypper runs it and takes the XML out of the lines that are shown to a person.
func (z *zypper) zypper(ctx context.Context, verb string, more ...string) (output, error) {
	out, err := z.change(ctx, z.command(verb, more...)...)
	for i, l := range out.lines {
		out.lines[i] = html.UnescapeString(tag().ReplaceAllString(l, ""))
	}
	out.lines = slices.DeleteFunc(out.lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	return out, err
}

// good knows what is no failure to zypper. Whether the toolkit works is seen from nvcc.
func (z *zypper) good(o output) bool {
	switch o.code {
	case 0, rebootNeeded, restartNeeded:
	case repoSkipped:
		z.log.Warnf("zypper in the container skipped a repository that it could not refresh: %s", o.tail(2))
	case scriptFailed:
		z.log.Warnf("zypper in the container: a package's script failed: %s", o.tail(2))
	default:
		return false
	}
	return true
}

func (z *zypper) setup(ctx context.Context) error {
	return z.addRepo(ctx, zypperRepoFile, func() (output, error) {
		// Here only, so that no other repository's key comes in unasked.
		out, err := z.zypper(ctx, "--gpg-auto-import-keys", "refresh", rpmRepoID)
		if err == nil && z.good(out) {
			out.code = 0
		}
		return out, err
	})
}

func (z *zypper) end(context.Context) error { return nil }

// element is a package in zypper's XML, the summary, or the begin or end of a
// section of packages. A package may have its description within.
var (
	element   = lazy.Regexp(`<(/?)(solvable|install-summary|to-[a-z-]+)\b[^<>]*>`)
	attribute = lazy.Regexp(`\b(name|edition|kind|type|download-size|space-usage-diff)="([^"]*)"`)
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
		a := attributes(m[0])
		switch {
		case tag == "install-summary" && !end:
			p.fetch, _ = strconv.ParseUint(a["download-size"], 10, 63)
			p.disk, _ = strconv.ParseUint(a["space-usage-diff"], 10, 63) // below zero: 0
			continue
		case tag != "solvable":
			if section = tag; end {
				section = ""
			}
			continue
		case end || a["type"] != "" && a["type"] != "package":
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
	out, err := z.zypper(ctx, "search", "--details", "--type", "package", "--repo", rpmRepoID, "cuda-toolkit-*")
	if err == nil && out.code != nothingFound && !z.good(out) {
		err = z.failed("zypper search", out)
	}
	return parseZypperSearch(string(out.stdout)), err
}

func parseZypperSearch(text string) []available {
	var pairs [][2]string
	for _, m := range element().FindAllStringSubmatch(text, -1) {
		a := attributes(m[0])
		pairs = append(pairs, [2]string{a["name"], a["edition"]})
	}
	return collect(pairs)
}

func (z *zypper) plan(ctx context.Context, names []string) (plan, error) {
	out, err := z.zypper(ctx, "install", append([]string{"--dry-run", "--no-recommends"}, names...)...)
	if err != nil {
		return plan{}, err
	}
	return z.planned("zypper install", names, out, z.good(out), parseZypper(string(out.stdout)))
}

func (z *zypper) act(ctx context.Context, do action, names []string) error {
	verb, options := "install", []string{"--no-recommends", "--auto-agree-with-licenses"}
	switch do {
	case actReinstall:
		options = append(options, "--force")
	case actRemove:
		verb, options = "remove", []string{"--no-clean-deps"}
	}
	out, err := z.zypper(ctx, verb, append(options, names...)...)
	return z.changed(ctx, "zypper "+verb+" "+shortList(names), out, err == nil && z.good(out), err)
}

// markWanted has nothing to do: zypper removes what nothing needs only when told to.
func (z *zypper) markWanted(context.Context, []string) error { return nil }
