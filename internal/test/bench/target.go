package main

import "fmt"

// A target is a promise, and what was measured of it.
type target struct {
	promise string
	limit   string
	found   string
	reached bool
}

func (t target) verdict() string {
	if t.reached {
		return "reached"
	}
	return "not reached"
}

// judge compares what was measured with what was promised. A promise of which
// nothing was measured is left out.
func (r *report) judge() {
	skip, warm, cold, together, space := r.section("skip"), r.section("warm"), r.section("cold"), r.section("together"), r.section("space")
	const installer = "nvidia-installer alone"

	hook, okHook := skip.find(hookName)
	shell, okShell := skip.find(shellName)
	info, okInfo := skip.find("lxc-info alone")
	r.atMost(okHook && okInfo, "a skip, against lxc-info alone", hook/info, 3)
	r.atLeast(okHook && okShell, "a skip, faster than the shell hook", shell/hook, 3)

	hook, okHook = warm.find(hookName + ", mount")
	shell, okShell = warm.find(shellName)
	alone, okAlone := warm.find(installer)
	r.atMost(okHook && okAlone, "an install by mount, against the installer alone", hook/alone, 1.15)
	r.atLeast(okHook && okShell, "an install by mount, faster than the shell hook", shell/hook, 2)

	hook, okHook = cold.find(hookName)
	download, _ := cold.find("download alone")
	unpack, _ := cold.find("unpack alone")
	alone, okAlone = cold.find(installer)
	r.atMost(okHook && okAlone, "a first install, against the longer of download and unpacking, and the installer",
		hook/(max(download, unpack)+alone), 1.15)

	hook, okHook = together.find(hookName + ", first install")
	cached, okCached := together.find(hookName + ", run file cached")
	many, okMany := together.find("nvidia-installers alone")
	r.atMost(okCached && okMany, "installs at once, run file cached, against as many installers alone", cached/many, 1.3)
	r.atMost(okHook && okMany, "first installs at once, against as many installers alone (without a download)", hook/many, 1.3)
	r.atMost(okHook && okMany && okAlone, "first installs at once, against the longer of download and unpacking, and as many installers",
		hook/(max(download, unpack)+many), 1.3)
	crowd := r.section("crowd")
	first, okFirst := crowd.find(hookName + ", the first is done")
	end, okEnd := crowd.find(hookName + ", the last is done")
	r.atMost(okFirst && okEnd, "the first of many installs at once, against the last", first/end, 0.25)
	if n, ok := together.find("downloads of " + hookName); ok {
		r.targets = append(r.targets, target{"first installs at once, downloads", "1", inCount.format(n), n == 1})
	}

	if n, ok := space.find("of it the run file and its contents, " + hookName + ", mount"); ok {
		r.targets = append(r.targets, target{"run file on the container's disk, by mount", "0 bytes", inBytes.format(n), n == 0})
	}
	for _, c := range []struct {
		row, promise string
		limit        float64
	}{
		{"peak memory of " + hookName + ", first install, mount", "memory of a first install", 64e6},
		{"binary", "size of the binary", 12e6},
		{"Debian package", "size of the package", 5e6},
	} {
		if n, ok := space.find(c.row); ok {
			r.targets = append(r.targets, target{c.promise, "at most " + inBytes.format(c.limit), inBytes.format(n), n <= c.limit})
		}
	}
}

func (r *report) atMost(known bool, promise string, found, limit float64) {
	r.ratio(known, promise, "at most", found, limit, found <= limit)
}

func (r *report) atLeast(known bool, promise string, found, limit float64) {
	r.ratio(known, promise, "at least", found, limit, found >= limit)
}

func (r *report) ratio(known bool, promise, how string, found, limit float64, reached bool) {
	if known {
		r.targets = append(r.targets, target{promise, fmt.Sprintf("%s %g times", how, limit), fmt.Sprintf("%.2f times", found), reached})
	}
}
