package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// hostFacts are of the node. An error beside a fact means that it is not known.
type hostFacts struct {
	arch, archError     string
	module              version.Driver // "" when none is loaded
	moduleError         string
	userSpace           version.Driver // of the node itself; "" when there is none or it cannot be told
	modules             []string       // loaded kernel modules
	modulesError        string
	gpus, vfio          int // of NVIDIA: the host's own, handed to virtual machines
	pciError            string
	minors              []uint32            // of the GPUs that the module drives
	majors              map[uint32][]string // character devices by major
	majorsError         string
	present             []host.Node
	bootUnit, bootKnown bool // the unit that makes the nodes at boot is enabled
	program             bool // the program stands where the snippet calls it
	cgroup2             bool // control groups of version 2 alone, as on every Proxmox VE 8 or 9 by default

	root       bool // who asks is root
	stateError string
	state      string      // the state folder
	stateMode  fs.FileMode // of it
	stateThere bool        // it was made already

	pveError string // why this is no working node of Proxmox VE; "" when it is one
	local    string
	nodes    []string
	guests   []pve.Guest
	storages pve.Storages
	late     map[string]bool // storages that may not be mounted yet when guests start at boot
	noStore  string          // why there are no storages
}

// Places on the node.
const (
	program  = "usr/bin/pve-nvidia-hook"
	bootUnit = "etc/systemd/system/multi-user.target.wants/pve-nvidia-hook-devices.service"
)

func lookHost(h host.Host, state string) hostFacts {
	var f hostFacts
	var err error
	f.root = os.Geteuid() == 0
	f.state = state
	switch info, err := os.Lstat(state); {
	case err == nil:
		f.stateThere, f.stateMode = true, info.Mode()
	case !errors.Is(err, fs.ErrNotExist):
		f.stateError = err.Error()
	}
	f.arch, err = host.Arch()
	f.archError = text(err)
	f.module, err = h.Module()
	f.moduleError = text(err)
	f.userSpace = hostUserSpace(h, f.arch)
	f.modules, err = loadedModules(h)
	f.modulesError = text(err)
	f.gpus, f.vfio, err = countGPUs(h)
	f.pciError = text(err)
	f.minors = gpuMinors(h)
	f.majors, err = charMajors(h)
	f.majorsError = text(err)
	f.present = host.NodesPresent(h.Root)
	if _, err := os.Stat(h.Path("etc/systemd/system")); err == nil {
		f.bootKnown = true
		_, err := os.Lstat(h.Path(bootUnit))
		f.bootUnit = err == nil
	}
	if info, err := os.Stat(h.Path(program)); err == nil {
		f.program = info.Mode().IsRegular() && info.Mode()&0o111 != 0
	}
	_, err = os.Stat(h.Path("sys/fs/cgroup/cgroup.controllers")) // with version 1 beside it, it lies in a folder below
	f.cgroup2 = err == nil
	f.local = pve.LocalNode(h.Root)
	f.guests, err = pve.Guests(h.Root)
	f.pveError = text(err)
	if err == nil {
		f.nodes, _ = pve.Nodes(h.Root) // as Guests could just now
		f.storages, err = pve.ReadStorages(h.Root)
		f.noStore = text(err)
		f.late = map[string]bool{}
		for id, s := range f.storages {
			f.late[id] = s.Late(h.Root)
		}
	}
	return f
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// small reads a file of the kernel's, of at most 1 MiB.
func small(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return string(raw), err
}

// loadedModules names the kernel's modules. sys/module has those that are built
// in as well, and is there on kernels that load none.
func loadedModules(h host.Host) ([]string, error) {
	var names []string
	raw, err := small(h.Path("proc/modules"))
	if err != nil {
		entries, again := os.ReadDir(h.Path("sys/module"))
		if again != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names, nil
	}
	for line := range strings.Lines(raw) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names, nil
}

// countGPUs counts display and 3D controllers (PCI class 0300 and 0302) of NVIDIA (vendor 10de).
func countGPUs(h host.Host) (own, vfio int, err error) {
	dir := h.Path("sys/bus/pci/devices")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		vendor, _ := small(filepath.Join(dir, e.Name(), "vendor"))
		class, _ := small(filepath.Join(dir, e.Name(), "class"))
		if strings.TrimSpace(vendor) != "0x10de" || !strings.HasPrefix(class, "0x0300") && !strings.HasPrefix(class, "0x0302") {
			continue
		}
		if bound, _ := os.Readlink(filepath.Join(dir, e.Name(), "driver")); filepath.Base(bound) == "vfio-pci" {
			vfio++
		} else {
			own++
		}
	}
	return own, vfio, nil
}

// gpuMinors lists the N of /dev/nvidiaN that the module has a GPU for.
func gpuMinors(h host.Host) []uint32 {
	infos, _ := filepath.Glob(h.Path("proc/driver/nvidia/gpus/*/information"))
	var minors []uint32
	for _, info := range infos {
		raw, _ := small(info)
		for line := range strings.Lines(raw) {
			if value, ok := strings.CutPrefix(line, "Device Minor:"); ok {
				// 254 and 255 are modeset and control.
				if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 8); err == nil && n < 254 {
					minors = append(minors, uint32(n))
				}
			}
		}
	}
	slices.Sort(minors)
	return minors
}

// charMajors reads which driver has which major now. Only the GPUs' own, 195,
// is fixed; that of nvidia-uvm can be another after each boot.
func charMajors(h host.Host) (map[uint32][]string, error) {
	raw, err := small(h.Path("proc/devices"))
	if err != nil {
		return nil, err
	}
	return parseMajors(raw), nil
}

func parseMajors(raw string) map[uint32][]string {
	majors := map[uint32][]string{}
	for line := range strings.Lines(raw) {
		line = strings.TrimSpace(line)
		if line == "Block devices:" {
			break
		}
		number, name, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(number, 10, 12); err == nil {
			majors[uint32(n)] = append(majors[uint32(n)], name)
		}
	}
	return majors
}

// majorOf is the major of a driver, as far as it is known.
func (f hostFacts) majorOf(name string) (uint32, bool) {
	for n, names := range f.majors {
		if slices.Contains(names, name) {
			return n, true
		}
	}
	return 0, false
}

var libraryVersion = regexp.MustCompile(`^libnvidia-ml\.so\.([0-9]+\.[0-9]+(?:\.[0-9]+)?)$`)

// hostUserSpace is the version of the node's own libnvidia-ml, when there is just one.
func hostUserSpace(h host.Host, arch string) version.Driver {
	found := map[version.Driver]bool{}
	var v version.Driver
	for _, dir := range []string{"usr/lib/" + arch + "-linux-gnu", "usr/lib/" + arch + "-linux-gnu/nvidia/current", "usr/lib64"} {
		files, _ := filepath.Glob(h.Path(dir + "/libnvidia-ml.so.*"))
		for _, file := range files {
			if m := libraryVersion.FindStringSubmatch(filepath.Base(file)); m != nil {
				v = version.Driver(m[1])
				found[v] = true
			}
		}
	}
	if len(found) != 1 {
		return ""
	}
	return v
}

// nodeAt looks at a device node of the host. ok is false when it is not there
// or is no device; err when it cannot be told.
func nodeAt(h host.Host, path string) (ok bool, err error) {
	info, err := os.Stat(h.Path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return info.Mode()&fs.ModeDevice != 0, nil
}

// wantedNodes lists the device nodes that there should be on the host.
func (f hostFacts) wantedNodes() []host.Node {
	nodes := []host.Node{{Path: "/dev/nvidiactl", Major: 195, Minor: 255}}
	for _, n := range f.minors {
		nodes = append(nodes, host.Node{Path: fmt.Sprintf("/dev/nvidia%d", n), Major: 195, Minor: n})
	}
	if major, ok := f.majorOf("nvidia-uvm"); ok {
		nodes = append(nodes, host.Node{Path: "/dev/nvidia-uvm", Major: major}, host.Node{Path: "/dev/nvidia-uvm-tools", Major: major, Minor: 1})
	}
	return nodes
}

func (f hostFacts) node(path string) (host.Node, bool) {
	i := slices.IndexFunc(f.present, func(n host.Node) bool { return n.Path == path })
	if i < 0 {
		return host.Node{}, false
	}
	return f.present[i], true
}
