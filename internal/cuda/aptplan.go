package cuda

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// "Inst NAME [OLD] (NEW ORIGIN [ARCH])" and "Remv NAME [OLD]" or "Purg NAME [OLD]"
// in what apt-get -s prints; without [OLD] a package comes in new.
var aptAct = lazy.Regexp(`^(Inst|Remv|Purg) (\S+)( \[[^\]]*\])?`)

// parsePlan reads what apt-get -s printed.
func parsePlan(out string) plan {
	var p plan
	for line := range strings.Lines(out) {
		m := aptAct().FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] != "Inst":
			if !slices.Contains(p.remove, m[2]) {
				p.remove = append(p.remove, m[2])
			}
		case m[3] == "":
			p.fresh = append(p.fresh, m[2])
		default:
			p.newer = append(p.newer, m[2])
		}
	}
	return p
}

// plan asks apt what installing names would do.
func (a *apt) plan(ctx context.Context, names []string) (plan, error) {
	out, err := a.run(ctx, append(a.look("install", "-s", "--no-remove"), names...)...)
	if err != nil {
		return plan{}, err
	}
	p := parsePlan(string(out.stdout))
	switch {
	case out.code == 0 && p.empty():
		return p, nil
	case out.code == 0:
		out, err := a.run(ctx, append(a.look("install", "--print-uris", "--no-remove"), names...)...)
		p.fetch, p.disk = parseRoom(string(out.stdout))
		return p, err
	}
	if name, ok := driverIn(out.lines); ok {
		return p, refuseDriver(name, names, out.tail(4))
	}
	if len(p.remove) > 0 && strings.Contains(strings.Join(out.lines, "\n"), "Packages need to be removed") {
		return p, nil
	}
	return p, hint.Errorf("look with apt-get -s install in the container; cuda.packages and cuda.toolkit name what is installed",
		"apt cannot install %s: %s", strings.Join(names, ", "), unmet(out))
}

// unmet is what of apt's output tells why packages cannot be installed.
func unmet(out output) string {
	var why []string
	for _, l := range out.lines {
		if strings.Contains(l, "Depends:") || complaint().MatchString(l) {
			why = append(why, strings.Join(strings.Fields(l), " "))
		}
	}
	if len(why) > 6 {
		why = why[:6]
	}
	return say.Clean(strings.Join(why, "; "), 600)
}

// "Need to get 3,012 MB/3,500 MB of archives." and "After this operation, 7,702
// MB of additional disk space will be used."; apt counts by the thousand.
var (
	aptGet   = lazy.Regexp(`Need to get ([0-9.,]+) ([kMGT]?B)`)
	aptDisk  = lazy.Regexp(`After this operation, ([0-9.,]+) ([kMGT]?B) of additional`)
	apt3Get  = lazy.Regexp(`Download size: ([0-9.,]+) ([kMGT]?B)`)
	apt3Disk = lazy.Regexp(`Space needed: ([0-9.,]+) ([kMGT]?B)`)
)

// bytesOf is a size as the package tools print it: apt counts by the thousand
// (kB, MB), dnf by 1024 (dnf 4: k, M; dnf 5: KiB, MiB).
func bytesOf(number, unit string) uint64 {
	n, _ := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	base := 1024.0
	if prefix, ok := strings.CutSuffix(unit, "B"); ok && !strings.HasSuffix(prefix, "i") {
		base = 1000
	}
	for range strings.IndexByte(" KMGT", strings.ToUpper(unit + " ")[0]) {
		n *= base
	}
	return uint64(min(n, 1e18)) // so that sums do not overflow
}

// parseRoom reads how many bytes apt will fetch and then use.
func parseRoom(text string) (fetch, disk uint64) {
	return parseSize(text, aptGet, apt3Get), parseSize(text, aptDisk, apt3Disk)
}
