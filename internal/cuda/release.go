package cuda

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// known is the driver that NVIDIA ships with each toolkit release and its
// updates (CUDA release notes, table of toolkit and corresponding driver
// versions). With at least that driver all of a toolkit works.
var known = map[string][]version.Driver{
	"13.3": {"610.43.02"},
	"13.2": {"595.45.04", "595.58.03", "595.71.05"},
	"13.1": {"590.44.01", "590.48.01"},
	"13.0": {"580.65.06", "580.82.07", "580.95.05"},
	"12.9": {"575.51.03", "575.57.08"},
	"12.8": {"570.26", "570.124.06"},
	"12.6": {"560.28.03", "560.35.03", "560.35.03", "560.35.05"},
	"12.5": {"555.42.02", "555.42.06"},
	"12.4": {"550.54.14", "550.54.15"},
	"12.3": {"545.23.06", "545.23.08"},
	"12.2": {"535.54.03", "535.86.09", "535.104.05"},
	"12.1": {"530.30.02"},
	"12.0": {"525.60.13", "525.85.12"},
	"11.8": {"520.61.05"},
	"11.7": {"515.43.04"},
	"11.6": {"510.39.01"},
	"11.5": {"495.29.05"},
	"11.4": {"470.42.01"},
	"11.3": {"465.19.01"},
	"11.2": {"460.27.03"},
	"11.1": {"455.23"},
	"11.0": {"450.51.05"},
}

// CUDA 13.0 ended Maxwell, Pascal and Volta (its release notes): it compiles only
// for GPUs of Turing's compute capability or newer. What ended before needs no
// such limit: Kepler's last driver, 470, is older than CUDA 12.
const (
	firstTuring = "13.0"
	turing      = "7.5"
)

// compiling are the toolkits that can compile for a GPU of this compute capability.
func compiling(capability string, have []available) []available {
	if capability == "" || compareReleases(capability, turing) >= 0 {
		return have
	}
	return slices.DeleteFunc(slices.Clone(have), func(a available) bool { return compareReleases(a.Release, firstTuring) >= 0 })
}

// floor is the oldest driver that runs any release of a major version at all,
// by minor-version compatibility: code that the driver would have to compile
// itself (PTX) can still fail on it.
var floor = map[string]version.Driver{"13": "580.65.06", "12": "525.60.13", "11": "450.80.02"}

// compareReleases orders releases such as 12.8 and 12.10.
func compareReleases(a, b string) int {
	return version.Compare(version.Driver(a), version.Driver(b))
}

// available is a toolkit that a repository has.
type available struct {
	Release string // 12.8
	Version string // newest version of its package there: 12.8.1-1
}

// firstBuilds is the release from which on the third number of a package's
// version is a build: 13.4.1 is the first that came out of 13.4.
const firstBuilds = "13.4"

// update is the number of the update that a package version stands for: the
// third part of 12.8.1-1, as long as NVIDIA numbered updates.
func (a available) update() int {
	if compareReleases(a.Release, firstBuilds) >= 0 {
		return 0
	}
	return a.third()
}

// third is the third number of the package's version. The newer the higher.
func (a available) third() (n int) {
	_, _ = fmt.Sscanf(a.Version, a.Release+".%d", &n)
	return max(n, 0)
}

// fullDriver is the driver with which all of a release works. Of an update that
// is newer than the table, the newest known one's. "" for an unknown release.
func fullDriver(release string, update int) version.Driver {
	drivers := known[release]
	if len(drivers) == 0 {
		return ""
	}
	return drivers[min(update, len(drivers)-1)]
}

// leastDriver is the oldest driver that runs a release at all, as far as is
// known. "" for one older than the table: every driver in use runs it.
func leastDriver(release string) version.Driver {
	if newerThanKnown(release) {
		return fullDriver(newestKnown(), 99)
	}
	major, _, _ := strings.Cut(release, ".")
	full := fullDriver(release, 0)
	if least, ok := floor[major]; ok && (full == "" || version.Compare(full, least) >= 0) {
		return least
	}
	return full // 11.0 came with a driver older than its major version's floor
}

func newestKnown() string {
	return slices.MaxFunc(slices.Collect(maps.Keys(known)), compareReleases)
}

// newerThanKnown reports whether a release is newer than the table. Its driver is
// not known. It is held to need one of the newest known release's branch.
func newerThanKnown(release string) bool { return compareReleases(release, newestKnown()) > 0 }

// branch is the first number of a driver version.
func branch(v version.Driver) version.Driver {
	first, _, _ := strings.Cut(string(v), ".")
	return version.Driver(first)
}

// checkDriver refuses a release that the driver cannot run. note is for the log
// when it runs but with limits.
func checkDriver(a available, driver version.Driver) (note string, err error) {
	if driver == "" {
		return "", nil
	}
	least := leastDriver(a.Release)
	full := fullDriver(a.Release, a.update())
	newer := newerThanKnown(a.Release)
	if !newer && version.Compare(driver, least) < 0 || newer && version.Compare(driver, branch(least)) < 0 {
		text := "newest that this driver fully supports is " + newestFor(driver)
		return "", hint.Errorf("upgrade the host's driver, or ask for an older toolkit: the "+text,
			"CUDA toolkit %s needs driver %s or newer, the driver is %s", a.Release, least, driver)
	}
	if newer {
		return fmt.Sprintf("CUDA toolkit %s is newer than this program knows: whether driver %s fully supports it is not known", a.Release, driver), nil
	}
	if version.Compare(driver, full) < 0 {
		note = fmt.Sprintf("CUDA toolkit %s runs on driver %s with limits (code that the driver compiles may fail); all of it needs %s", a.Release, driver, full)
	}
	return note, nil
}

// newestFor is the newest release in the table that a driver fully supports.
func newestFor(driver version.Driver) string {
	best := "none"
	for _, r := range slices.SortedFunc(maps.Keys(known), compareReleases) {
		if version.Compare(driver, fullDriver(r, 0)) >= 0 {
			best = r
		}
	}
	return best
}

// choose picks the toolkit to install from what the repository has, newest first.
func choose(wanted string, driver version.Driver, capability string, have []available) (available, error) {
	if wanted != cudapkg.Auto {
		if at := slices.IndexFunc(have, func(a available) bool { return a.Release == wanted }); at >= 0 {
			return have[at], nil
		}
		return available{}, hint.Errorf("ask for one of these: NVIDIA keeps only newer toolkits in the repository of a newer operating system",
			"the repository has no CUDA toolkit %s; it has %s", wanted, list(have))
	}
	if driver == "" {
		return available{}, hint.Errorf(`set cuda.toolkit to a release such as "12.8"`, "no driver version to choose a CUDA toolkit for")
	}
	usable := compiling(capability, have)
	for _, a := range usable {
		full := fullDriver(a.Release, a.update())
		if full != "" && version.Compare(driver, full) >= 0 {
			return a, nil
		}
	}
	// A repository for a new operating system may begin behind the table. The
	// oldest release that it has is the nearest to what is known.
	for _, a := range slices.Backward(usable) {
		if newerThanKnown(a.Release) && version.Compare(driver, fullDriver(newestKnown(), 99)) >= 0 {
			return a, nil
		}
	}
	if len(usable) == 0 && len(have) > 0 {
		return available{}, hint.Errorf("use a container with an older operating system, whose repository has older toolkits, or one without that GPU",
			"the repository has no CUDA toolkit before %s, as a GPU of compute capability %s needs; it has %s", firstTuring, capability, list(have))
	}
	return available{}, hint.Errorf("set cuda.toolkit to the release that you want, or upgrade the host's driver",
		"the repository has no CUDA toolkit that driver %s fully supports; it has %s, and that driver supports %s", driver, list(have), newestFor(driver))
}

func list(have []available) string {
	if len(have) == 0 {
		return "none"
	}
	var names []string
	for _, a := range have {
		names = append(names, a.Release)
	}
	return strings.Join(names, ", ")
}

// toolkitPackage is NVIDIA's name of the package that holds a whole release.
func toolkitPackage(release string) string {
	return "cuda-toolkit-" + strings.ReplaceAll(release, ".", "-")
}

var toolkitName = lazy.Regexp(`^cuda-toolkit-([1-9][0-9]?)-(0|[1-9][0-9]?)$`)

// collect makes the list of toolkits from pairs of package name and version,
// newest first; of one release it keeps the newest update.
func collect(pairs [][2]string) []available {
	var all []available
	for _, p := range pairs {
		m := toolkitName().FindStringSubmatch(p[0])
		if v := say.Clean(strings.TrimSpace(p[1]), 40); m != nil && v != "" {
			all = append(all, available{m[1] + "." + m[2], v})
		}
	}
	slices.SortStableFunc(all, func(a, b available) int {
		return cmp.Or(compareReleases(b.Release, a.Release), cmp.Compare(b.third(), a.third()))
	})
	return slices.CompactFunc(all, func(a, b available) bool { return a.Release == b.Release })
}
