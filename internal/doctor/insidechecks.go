package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// insideChecks look at what is in a running container, and at how the last run
// went, which explains some of it.
func insideChecks() []check {
	// What explains that the driver is not as it should be: a run is refused, or failed.
	blocked := []string{"settings", "vgpu", "kernel-module", "wanted-version", "obstacles", "last-run"}
	return []check{{
		name: "inside", about: "it runs, and its files can be read",
		where: ofWanted,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			switch {
			case errors.Is(g.insideError, lxc.ErrNotRunning):
				out.add(Unknown, hint.Of(g.insideError), "it is not running, so its files cannot be read")
			case g.insideError != nil:
				out.add(Unknown, hint.Of(g.insideError), "its files cannot be read: %v", g.insideError)
			}
		},
	}, {
		name: "obstacles", about: "nothing keeps NVIDIA's installer from working: glibc and ldconfig are there, driver packages of the distribution are not",
		where: inside,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			for _, b := range g.inside.blockers {
				out.add(Problem, strings.ReplaceAll(b.Hint, "VMID", strconv.Itoa(g.vmid)), "%s", b.Reason)
			}
			out.orOK("glibc, ldconfig and the installer's tools are there, driver packages of the distribution are not")
		},
	}, {
		name: "disk", about: "its disk has room for a driver",
		where: inside, run: checkDisk,
	}, {
		name: "last-run", about: "the last run did not fail; after a failure, when the next attempt is",
		where: ofWanted, after: []string{"kernel-module", "wanted-version", "obstacles"}, run: checkRuns,
	}, {
		name: "nodes-inside", about: "its NVIDIA nodes are devices with the host's numbers",
		where: inside, after: []string{"kernel-module", "device-nodes", "entries-on-host", "entries"}, run: checkInsideNodes,
	}, {
		name: "versions", about: "the version of its driver is the one that is wanted",
		where: inside, after: blocked, run: checkVersions,
	}, {
		name: "loader", about: "programs get the driver's libcuda, not one of cuda-compat, conda or pip (/etc/ld.so.cache)",
		where: inside, run: checkLoader,
	}, {
		name: "record", about: "its files are as they were recorded after the installation",
		where: inside, after: append(slices.Clone(blocked), "versions"), run: checkRecord,
	}, {
		name: "toolkit", about: "the CUDA toolkit, and what comes from its repository, is as wanted",
		where: inside, after: append(slices.Clone(blocked), "versions"),
		run: func(h *hostFacts, g *guestFacts, out *findings) {
			// What a start would do about it.
			name := hook.ToolkitName(g.settings)
			if name == "" || !g.settings.Wanted || g.settingsError != nil || g.wanted(*h) == "" {
				return
			}
			if g.inside.toolkit != "" {
				out.add(Problem, g.apply(false), "%s is not as wanted: %s", name, g.inside.toolkit)
			}
			out.orOK("%s is as wanted", name)
		},
	}, {
		name: "orphans", about: "it has no libraries of another driver version",
		where: inside, after: append(slices.Clone(blocked), "versions"),
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			if n := len(g.inside.orphans); n > 0 {
				shown := g.inside.orphans[:min(n, 3)]
				more := ""
				if n > len(shown) {
					more = fmt.Sprintf(" and %d more", n-len(shown))
				}
				out.add(Problem, g.apply(true), "libraries of another driver version are left: %s%s; the next ldconfig may give them to programs", strings.Join(shown, ", "), more)
			}
			out.orOK("there are no libraries of another driver version")
		},
	}}
}

// explains reports whether a finding of another check can be why this container
// has not what it should.
func (g *guestFacts) explains(h *hostFacts, check string) bool {
	switch check {
	case "kernel-module":
		return g.needsModule(h)
	case "wanted-version":
		return g.settings.Driver.OnMismatch != "install"
	}
	return true
}

// checkInsideNodes compares the container's device nodes with the host's.
func checkInsideNodes(h *hostFacts, f *guestFacts, out *findings) {
	if f.inside.nodesError != nil {
		out.add(Unknown, "", "its /dev cannot be read: %v", f.inside.nodesError)
		return
	}
	restart, exec := f.restart(), f.exec()
	there := map[string]bool{}
	for _, n := range f.inside.nodes {
		there[n.path] = true
		before := len(out.list)
		real, known := h.node(n.path)
		switch {
		case n.mode.IsRegular():
			out.add(Problem, fmt.Sprintf("%s, remove the file in the container (%s rm %s), then: %s", makeNodes, exec, n.path, restart),
				"%s in the container is an ordinary file, not a device: a mount with create=file found no node on the host, or a program wrote to that name", n.path)
		case !n.char():
			out.add(Problem, exec+" ls -l "+n.path, "%s in the container is not a device (%s)", n.path, n.mode.Type())
		case known && real.IsChar && (real.Major != n.major || real.Minor != n.minor):
			out.add(Problem, restart, "%s in the container has the numbers %d:%d, on the host it has %d:%d", n.path, n.major, n.minor, real.Major, real.Minor)
		case !known && common(n.path) && len(h.present) > 0:
			out.add(Problem, exec+" rm "+n.path, "%s is in the container but not on the host", n.path)
		}
		if len(out.list) > before && known && real.IsChar {
			out.follows() // the host's node is not why
		}
	}
	for _, e := range entries(f.live) {
		if e.nvidia() && !e.folder && !there[e.target] && e.target != "/dev/nvidia-caps" {
			out.add(Problem, restart, "%s is not in the container, though %s passes it", e.target, e.key)
			if n, there := h.node(e.source); there && n.IsChar {
				out.follows() // the host's node is not why
			}
		}
	}
	if len(f.inside.nodes) == 0 && len(out.list) == 0 {
		if needed, _ := f.needed(h); len(needed) == 0 {
			return
		}
		out.add(Problem, f.giveGPUs()+", then: "+restart, "the container has no device node of a GPU")
	}
	out.orOK("its %d device nodes are the host's", len(f.inside.nodes))
}

// common reports whether a node is one of those that are listed of the host too;
// there are others, of NVSwitch for instance.
func common(node string) bool {
	name := strings.TrimPrefix(node, "/dev/nvidia")
	return isGPU(node) || slices.Contains([]string{"ctl", "-uvm", "-uvm-tools", "-modeset"}, name) || strings.HasPrefix(name, "-caps/")
}

// checkVersions compares what is installed with what is wanted.
func checkVersions(h *hostFacts, g *guestFacts, out *findings) {
	found, wanted := g.inside.found, g.wanted(*h)
	have := found.Version()
	switch {
	case g.inside.shares && have == "" && g.next.Shared():
		out.add(Problem, fmt.Sprintf("%s makes it ready, then: %s", g.apply(false), g.restart()), "the shared driver is not mounted in it: when it was started, the node had none ready or its configuration had no line for it")
		return
	case g.inside.shares && have == "":
		out.add(Problem, g.enable()+" --share, then: "+g.restart(), "the shared driver is not mounted in it: its configuration has no line for that")
		return
	case g.inside.shares && wanted != "" && have != wanted:
		out.add(Problem, g.restart(), "it was started with the shared driver %s, %s is needed", have, wanted)
		return
	case g.inside.setUp && !g.inside.shares:
		level, what := Problem, "its programs are led to a shared driver that is not mounted any more"
		if have != "" {
			level, what = Warning, fmt.Sprintf("it has the shared driver %s until its restart, since no line of its configuration mounts that any more", have)
		}
		out.add(level, fmt.Sprintf("to install a driver: %s; to have none: pve-nvidia-hook uninstall %d", g.apply(false), g.vmid), "%s", what)
		return
	case found.CUDA != found.NVML:
		out.add(Problem, g.apply(true), "libcuda.so.1 leads to %s and libnvidia-ml.so.1 to %s", cmp.Or(string(found.CUDA), "nothing"), cmp.Or(string(found.NVML), "nothing"))
	case have == "" && (!g.settings.Wanted || g.settingsError != nil || g.apart()):
	case have == "":
		out.add(Problem, g.apply(false), "no driver is installed, %s is wanted", cmp.Or(string(wanted), "that of the host"))
	case wanted == "":
		out.add(Unknown, "", "driver %s is installed; whether that is right is not known, because the wanted version is not known", have)
	case have != wanted:
		out.add(Problem, g.apply(false), "driver %s is installed, %s is needed", have, wanted)
	}
	if found.Log != "" && have != "" && found.Log != have {
		out.add(Problem, g.apply(true), "an installation of driver %s was started over %s and did not finish", found.Log, have)
	}
	if have == "" {
		out.orOK("no driver is installed, as wanted")
	}
	if g.inside.shares {
		out.orOK("it has driver %s of the node, as wanted", have)
	}
	out.orOK("driver %s is installed, as wanted", have)
}

// checkLoader looks for another libcuda that the loader finds before the driver's.
func checkLoader(h *hostFacts, g *guestFacts, out *findings) {
	l, have := g.inside.loader, g.inside.found.Version()
	switch {
	case g.inside.loaderError != nil:
		out.add(Unknown, "", "which libcuda programs get is not known: %v", g.inside.loaderError)
		return
	case l.Path == "" || have == "":
		return
	}
	if !driver.DriverFolder(l.Path, h.arch) && l.Version != have {
		dir := path.Dir(l.Path)
		fix := "remove its folder from /etc/ld.so.conf and /etc/ld.so.conf.d in the container, then run ldconfig there"
		if exec := g.exec(); plain().MatchString(dir) {
			fix = fmt.Sprintf("remove %s from the file that this names: %s grep -rF %s /etc/ld.so.conf /etc/ld.so.conf.d; then: %s ldconfig", dir, exec, dir, exec)
		}
		level, whose := Problem, "of no known version"
		if l.Version != "" {
			whose = "of driver " + string(l.Version)
		}
		why := "CUDA programs may fail"
		if l.Version != "" && version.Compare(l.Version, have) > 0 {
			level, why = Warning, "a newer one, such as that of cuda-compat, works on data centre GPUs only"
		}
		out.add(level, fix, "programs get %s (%s) instead of the libcuda of driver %s: %s", l.Path, whose, have, why)
	}
	out.orOK("programs get the libcuda of driver %s", have)
}

// checkRecord compares what a run has recorded with what is there.
func checkRecord(h *hostFacts, g *guestFacts, out *findings) {
	in, have := g.inside.record, g.inside.found.Version()
	switch {
	case g.inside.recordError != nil:
		out.add(Problem, g.apply(false), "its record is not trusted: %v", g.inside.recordError)
	case in == nil || in.Version == "":
		if have != "" {
			out.add(Warning, g.apply(false), "driver %s was not installed by this program, or not completely: the next start installs it again", have)
		}
		return
	case have != "" && in.Version != have && !g.inside.setUp: // a set-up is for all versions
		out.add(Problem, g.apply(false), "its record is stale: it names driver %s, but %s is there", in.Version, have)
	case g.inside.differs != "":
		out.add(Problem, g.apply(false), "it is not as driver %s was installed: %s", in.Version, g.inside.differs)
	case in.Verified == "files" && hook.Verify(g.settings, h.module, g.wanted(*h)) == "nvidia-smi":
		out.add(Warning, g.apply(false), "only the files of driver %s have been checked, nvidia-smi has not been run", in.Version)
	default:
		out.add(OK, "", "its files are as recorded at %s", when(in.At))
	}
}

// Room in a container, in bytes. A driver's user space has 0.4 to 0.9 GB.
const (
	roomForDriver = 1000_000_000
	roomAtAll     = 50_000_000
)

func checkDisk(h *hostFacts, g *guestFacts, out *findings) {
	if g.inside.freeError != nil {
		out.add(Unknown, "", "the free space of its disk is not known: %v", g.inside.freeError)
		return
	}
	fix := fmt.Sprintf("pct resize %d rootfs +4G", g.vmid)
	free := say.Bytes(int64(min(g.inside.free, 1<<62)))
	in := g.inside.record
	installed := g.inside.shares || in != nil && in.Version != "" && in.Version == g.wanted(*h) && g.inside.differs == ""
	switch {
	case installed && g.inside.free < roomAtAll:
		out.add(Warning, fix, "its disk has %s free", free)
	case !installed && g.inside.free < roomForDriver:
		out.add(Warning, fix, "its disk has %s free, a driver takes up to %s", free, say.Bytes(roomForDriver))
	}
	out.orOK("its disk has %s free", free)
}
