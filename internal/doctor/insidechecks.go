package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// checkInside judges what is in a running container.
func checkInside(h hostFacts, f guestFacts) []Finding {
	if f.inside == nil {
		if !f.running {
			return one("inside", Unknown, f.insideHint, "it does not run, so that its files cannot be looked at")
		}
		return one("inside", Unknown, f.insideHint, "its files cannot be looked at: %s", f.insideError)
	}
	all := checkInsideNodes(h, f)
	all = append(all, checkVersions(h, f)...)
	all = append(all, checkRecord(h, f)...)
	all = append(all, checkToolkit(h, f)...)
	all = append(all, checkStage(f)...)
	all = append(all, checkOrphans(f)...)
	all = append(all, checkObstacles(f)...)
	all = append(all, checkDisk(h, f)...)
	return append(all, checkMemory(h, f)...)
}

// checkInsideNodes compares the container's device nodes with the host's.
func checkInsideNodes(h hostFacts, f guestFacts) []Finding {
	out := findings{check: "nodes-inside"}
	if f.inside.nodesError != "" {
		out.add(Unknown, "", "its /dev cannot be looked at: %s", f.inside.nodesError)
		return out.list
	}
	restart, exec := h.restart(f), h.exec(f)
	there := map[string]bool{}
	closed := entryModes(f)
	for _, n := range f.inside.nodes {
		there[n.path] = true
		real, known := h.node(n.path)
		switch {
		case n.mode.IsRegular():
			out.add(Problem, fmt.Sprintf("%s, remove the file in the container (%s rm %s), then: %s", makeNodes, exec, n.path, restart),
				"%s in the container is an ordinary file, no device: a mount with create=file found no node on the host, or a program wrote to the name", n.path)
			continue
		case !n.char():
			out.add(Problem, exec+" ls -l "+n.path, "%s in the container is no device (%s)", n.path, n.mode.Type())
			continue
		case known && real.IsChar && (real.Major != n.major || real.Minor != n.minor):
			out.add(Problem, restart, "%s in the container has the numbers %d:%d, on the host it has %d:%d", n.path, n.major, n.minor, real.Major, real.Minor)
		case !known && common(n.path) && len(h.present) > 0:
			out.add(Problem, exec+" rm "+n.path, "%s is in the container but not on the host", n.path)
		}
		if n.mode.Perm()&0o006 != 0o006 && !closed[n.path] && !strings.HasPrefix(n.path, "/dev/nvidia-caps/") {
			out.add(Warning, "give its devN entry mode=0666, then: "+restart, "%s in the container has mode %04o: only root there can use it", n.path, n.mode.Perm())
		}
	}
	for _, e := range entries(f.live) {
		if e.nvidia() && !e.folder && !there[e.target] && e.target != "/dev/nvidia-caps" {
			out.add(Problem, restart, "%s is not in the container, though %s brings it", e.target, e.key)
		}
	}
	if len(f.inside.nodes) == 0 && len(out.list) == 0 {
		if needed, _ := f.needed(h); len(needed) == 0 {
			return nil
		}
		out.add(Problem, h.bring(f)+", then: "+restart, "there is no GPU's device node in the container")
		return out.list
	}
	return out.orOK("its %d device nodes are the host's", len(f.inside.nodes))
}

// restart is the command that starts a container anew, with Proxmox VE or LXC alone.
func (h hostFacts) restart(f guestFacts) string {
	if h.noPVE {
		return fmt.Sprintf("lxc-stop -P %s -n %d && lxc-start -P %[1]s -n %[2]d", f.settings.Paths.LXC, f.vmid)
	}
	return fmt.Sprintf("pct reboot %d", f.vmid)
}

// exec begins a command in a container.
func (h hostFacts) exec(f guestFacts) string {
	if h.noPVE {
		return fmt.Sprintf("lxc-attach -P %s -n %d --", f.settings.Paths.LXC, f.vmid)
	}
	return fmt.Sprintf("pct exec %d --", f.vmid)
}

// bring is what gives a container its GPUs. Without Proxmox VE nothing does it by
// a command, nor writes the device rules.
func (h hostFacts) bring(f guestFacts) string {
	if !h.noPVE {
		return fmt.Sprintf("pve-nvidia-hook enable %d --gpus %s", f.vmid, f.gpus())
	}
	return fmt.Sprintf("for each of /dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm a line such as 'lxc.mount.entry = /dev/nvidiactl dev/nvidiactl none bind,create=file' in %s, and 'lxc.cgroup2.devices.allow = c MAJOR:* rwm' for the majors of /proc/devices", f.lxcConfig())
}

// lxcConfig is the container's file where LXC has it.
func (f guestFacts) lxcConfig() string {
	return filepath.Join(f.settings.Paths.LXC, strconv.Itoa(f.vmid), "config")
}

// common reports whether a node is one of those that are listed of the host too;
// there are others, of NVSwitch for instance.
func common(node string) bool {
	name := strings.TrimPrefix(node, "/dev/nvidia")
	return isGPU(node) || slices.Contains([]string{"ctl", "-uvm", "-uvm-tools", "-modeset"}, name) || strings.HasPrefix(name, "-caps/")
}

// entryModes names the nodes of whose mode something was said already, or whose
// entry gives them to a user or group on purpose.
func entryModes(f guestFacts) map[string]bool {
	said := map[string]bool{}
	for _, e := range entries(f.live) {
		if e.dev() && (e.owned || e.mode&0o006 != 0o006) {
			said[e.target] = true
		}
	}
	return said
}

// apply is the command that puts right what a run can; again also when it holds
// what is there for good. After a failure there is one answer, the last run's.
func (f guestFacts) apply(again bool) string {
	switch {
	case f.told:
		return "see versions"
	case f.needsModule:
		return "see kernel-module of the host"
	case f.mend() != "":
		return "see last-run below"
	case again:
		return fmt.Sprintf("pve-nvidia-hook apply --force %d", f.vmid)
	}
	return fmt.Sprintf("pve-nvidia-hook apply %d", f.vmid)
}

// checkVersions compares host, configuration and container.
func checkVersions(h hostFacts, f guestFacts) []Finding {
	out := findings{check: "versions"}
	wanted := f.wanted(h)
	refused := false
	if f.mismatch(h) {
		level := Problem
		if f.settings.Driver.OnMismatch == "install" {
			level = Warning
		}
		refused = level == Problem // then what is there is that mismatch's doing
		out.add(level, fmt.Sprintf("set driver.version = \"host\", or load driver %s on the host", wanted),
			"driver %s is wanted (%s), the host's kernel module is %s: they must be equal to the last digit", wanted, f.settings.Origin("driver.version"), h.module)
	}
	found := f.inside.found
	have := found.Version()
	switch {
	case found.CUDA != found.NVML:
		out.add(Problem, f.apply(true), "libcuda.so.1 leads to %s and libnvidia-ml.so.1 to %s", or(string(found.CUDA), "nothing"), or(string(found.NVML), "nothing"))
	case have == "" && (!f.settings.Wanted || f.settingsError != ""):
	case refused && (have == "" || have != wanted):
	case have == "":
		out.add(Problem, f.apply(false), "no driver is installed, %s is wanted", or(string(wanted), "that of the host"))
	case wanted == "":
		out.add(Unknown, "", "driver %s is installed; whether that fits cannot be told, for it is not known which is wanted", have)
	case have != wanted:
		out.add(Problem, f.apply(false), "driver %s is installed, %s is needed", have, wanted)
	}
	if found.Log != "" && have != "" && found.Log != have {
		out.add(Problem, f.apply(true), "an installation of driver %s was begun over %s and not ended", found.Log, have)
	}
	if have == "" {
		return out.orOK("no driver is installed, as wanted")
	}
	return out.orOK("driver %s is installed, as wanted", have)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// checkRecord compares what a run has recorded with what is there.
func checkRecord(h hostFacts, f guestFacts) []Finding {
	out := findings{check: "record"}
	in, have := f.inside.record, f.inside.found.Version()
	switch {
	case f.inside.recordError != "":
		out.add(Problem, f.apply(false), "its record cannot be believed: %s", f.inside.recordError)
	case in == nil || in.Version == "":
		if have == "" {
			return nil
		}
		out.add(Warning, f.apply(false), "driver %s was not installed by this program, or not to the end: the next start installs it anew", have)
	case have != "" && in.Version != have:
		out.add(Problem, f.apply(false), "its record is stale: it names driver %s, but %s is there", in.Version, have)
	case f.inside.differs != "":
		out.add(Problem, f.apply(false), "it is not as driver %s was installed: %s", in.Version, f.inside.differs)
	case in.Verified == "files" && hook.Verify(f.settings, h.module, f.wanted(h)) == "nvidia-smi":
		out.add(Warning, f.apply(false), "only the files of driver %s were checked so far, nvidia-smi was not run", in.Version)
	}
	if len(out.list) == 0 {
		return out.orOK("its files are as recorded at %s", when(in.At))
	}
	return out.list
}

// checkToolkit says of the CUDA toolkit what a start would do about it.
func checkToolkit(h hostFacts, f guestFacts) []Finding {
	const check = "toolkit"
	asked := f.settings.CUDA.Toolkit != "" || len(f.settings.CUDA.Packages) > 0
	switch {
	case !asked, !f.settings.Wanted, f.settingsError != "", f.wanted(h) == "":
		return nil
	case f.inside.toolkit != "":
		return one(check, Problem, f.apply(false), "the CUDA toolkit is not as wanted: %s", f.inside.toolkit)
	}
	return one(check, OK, "", "the CUDA toolkit is as wanted")
}

// checkStage finds what a run that was killed has left in the container.
func checkStage(f guestFacts) []Finding {
	if !f.inside.stage || f.holder != "" || f.lockError != "" {
		return nil
	}
	return one("stage", Warning, fmt.Sprintf("pve-nvidia-hook apply --force %d", f.vmid),
		"a run that was killed has left its files in %s in the container", stage)
}

func checkOrphans(f guestFacts) []Finding {
	out := findings{check: "orphans"}
	if n := len(f.inside.orphans); n > 0 {
		shown := f.inside.orphans[:min(n, 3)]
		more := ""
		if n > len(shown) {
			more = fmt.Sprintf(" and %d more", n-len(shown))
		}
		out.add(Problem, f.apply(true), "libraries of another driver are left: %s%s; the next ldconfig may point programs to them", strings.Join(shown, ", "), more)
	}
	return out.orOK("no libraries of another driver are left")
}

// checkObstacles: what keeps NVIDIA's installer from its work, ldconfig and
// distribution packages among it.
func checkObstacles(f guestFacts) []Finding {
	out := findings{check: "obstacles"}
	for _, b := range f.inside.blockers {
		out.add(Problem, b.Hint, "%s", b.Reason)
	}
	return out.orOK("nothing stands in the installer's way: glibc, ldconfig and its tools are there, driver packages of the distribution are not")
}

// Room in a container, in bytes. A driver's user space has 0.4 to 0.9 GB.
const (
	roomForDriver = 1000_000_000
	roomAtAll     = 50_000_000
	memoryLow     = 512 << 20
)

func checkDisk(h hostFacts, f guestFacts) []Finding {
	const check = "disk"
	if f.inside.freeError != "" {
		return one(check, Unknown, "", "the free room of its disk cannot be seen: %s", f.inside.freeError)
	}
	fix := fmt.Sprintf("pct resize %d rootfs +4G", f.vmid)
	if h.noPVE {
		fix = "make its root file system larger, or make room in it"
	}
	free := say.Bytes(int64(min(f.inside.free, 1<<62)))
	in := f.inside.record
	installed := in != nil && in.Version != "" && in.Version == f.wanted(h) && f.inside.differs == ""
	switch {
	case installed && f.inside.free < roomAtAll:
		return one(check, Warning, fix, "its disk has %s free", free)
	case !installed && f.inside.free < roomForDriver:
		return one(check, Warning, fix, "its disk has %s free, a driver takes up to %s", free, say.Bytes(roomForDriver))
	}
	return one(check, OK, "", "its disk has %s free", free)
}

func checkMemory(h hostFacts, f guestFacts) []Finding {
	const check = "memory"
	fix := fmt.Sprintf("pct set %d --memory 1024", f.vmid)
	if h.noPVE {
		fix = "lxc.cgroup2.memory.max = 1G in " + f.lxcConfig()
	}
	switch m := f.inside.memory; {
	case f.inside.memoryError != "":
		return one(check, Unknown, "", "its memory limit cannot be seen: %s", f.inside.memoryError)
	case m == 0:
		return one(check, OK, "", "its memory has no limit")
	case m < memoryLow:
		return one(check, Warning, fix, "its memory limit is %d MiB: the installer runs within it too, and needs up to %d MiB beside the rest", m>>20, memoryLow>>20)
	default:
		return one(check, OK, "", "its memory limit is %d MiB", m>>20)
	}
}
