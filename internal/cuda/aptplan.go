package cuda

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// plan is what a package tool would do.
type plan struct {
	fresh  []string // packages that would come in new
	newer  []string // packages that would change their version
	remove []string // packages that would go
}

func (p plan) empty() bool { return len(p.fresh)+len(p.newer)+len(p.remove) == 0 }

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

// simulate asks apt what installing names would do, and refuses what must not happen.
func (a *apt) simulate(ctx context.Context, names []string) (plan, error) {
	args := append(a.look("install", "-s", "--no-remove"), names...)
	out, err := a.run(ctx, args...)
	if err != nil {
		return plan{}, err
	}
	p := parsePlan(string(out.stdout))
	if out.code != 0 {
		if name, ok := driverIn(out.lines); ok {
			return p, refuseDriver(name, names, out.tail(4))
		}
		if out.contains("Packages need to be removed") {
			return p, hint.Errorf("remove them in the container yourself when they are not needed, or ask for other packages",
				"installing %s would remove %s", strings.Join(names, ", "), say.Clean(strings.Join(p.remove, ", "), 300))
		}
		return p, hint.Errorf("look with apt-get -s install in the container; cuda.packages and cuda.toolkit name what is installed",
			"apt cannot install %s: %s", strings.Join(names, ", "), unmet(out))
	}
	if name, ok := firstDriver(append(slices.Clone(p.fresh), p.newer...)); ok {
		return p, refuseDriver(trimArch(name), names, "")
	}
	return p, nil
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

func refuseDriver(name string, names []string, why string) error {
	if why != "" {
		why = ": " + why
	}
	return hint.Errorf("ask for packages that do without the driver: cuda-toolkit-X-Y or parts of it, not cuda, cuda-runtime-X-Y or cuda-drivers",
		"installing %s would bring in the driver package %s, but the driver comes from the host's run file%s", strings.Join(names, ", "), say.Clean(name, 100), why)
}

// "Need to get 3,012 MB/3,500 MB of archives." and "After this operation, 7,702
// MB of additional disk space will be used."; apt counts by the thousand.
var (
	aptGet   = lazy.Regexp(`Need to get ([0-9.,]+) ([kMGT]?B)`)
	aptDisk  = lazy.Regexp(`After this operation, ([0-9.,]+) ([kMGT]?B) of additional`)
	apt3Get  = lazy.Regexp(`Download size: ([0-9.,]+) ([kMGT]?B)`)
	apt3Disk = lazy.Regexp(`Space needed: ([0-9.,]+) ([kMGT]?B)`)
)

// parseRoom reads how many bytes apt will fetch and then use.
func parseRoom(out string) (fetch, disk uint64) {
	find := func(forms ...func() *regexp.Regexp) uint64 {
		for _, re := range forms {
			if m := re().FindStringSubmatch(out); m != nil {
				n, _ := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
				n *= map[string]float64{"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[m[2]]
				return uint64(min(n, 1e18)) // so that sums do not overflow
			}
		}
		return 0
	}
	return find(aptGet, apt3Get), find(aptDisk, apt3Disk)
}

// room refuses an installation that the container's disk cannot hold: a whole
// toolkit takes some 8 GB beside the packages that are fetched first.
func (a *apt) room(ctx context.Context, names []string) error {
	args := append(a.look("install", "--print-uris", "--no-remove"), names...)
	out, err := a.run(ctx, args...)
	if err != nil {
		return err
	}
	fetch, disk := parseRoom(string(out.stdout))
	free, err := a.c.Free("/usr")
	if err != nil {
		return fmt.Errorf("ask for free space in the container: %w", err)
	}
	const spare = 64 << 20
	if need := fetch + disk + spare; need > free {
		return hint.Errorf("give the container a larger disk, or ask for parts of the toolkit: packages = [\"cuda-nvcc-12-8\", \"cuda-cudart-dev-12-8\"] and toolkit = \"\"",
			"installing %s needs %s on the container's disk, there are %s", strings.Join(names, ", "), say.Bytes(int64(need)), say.Bytes(int64(free)))
	}
	a.log.Infof("installing %s: %s to fetch, %s on the disk", strings.Join(names, ", "), say.Bytes(int64(fetch)), say.Bytes(int64(disk)))
	return nil
}
