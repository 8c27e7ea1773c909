package host

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Facts are what the kernel and the driver say of NVIDIA's devices, and of the
// nodes that there should be. An error beside a fact means that it is not known.
type Facts struct {
	Cards       []Card
	PCI, VFIO   int // how many of them the host may use, and how many are handed to virtual machines
	PCIError    error
	GPUs        []uint32            // minors of those that the module drives
	Driven      []GPU               // what it tells of them
	Majors      map[uint32][]string // which drivers of character devices have which major now
	MajorsError error

	loaded  bool // the nvidia module
	modeset bool // the nvidia-modeset module
	params  nodeParams
	caps    []capability
}

// nodeParams are the options of the nvidia module for its nodes, from
// /proc/driver/nvidia/params. Without that file they have the driver's defaults.
type nodeParams struct {
	modify         bool
	mode, uid, gid uint32
}

// capability is a file below /proc/driver/nvidia/capabilities.
type capability struct {
	minor, mode uint32
}

const maxCapabilities = 4096 // files looked at; a fully partitioned machine of 8 GPUs has some hundreds

// ReadFacts reads them below root ("" is /).
func ReadFacts(root string) Facts {
	f := Facts{params: nodeParams{modify: true, mode: 0o666}}
	f.loaded = exists(root, "proc/driver/nvidia/version") || exists(root, "sys/module/nvidia/version")
	f.modeset = exists(root, "sys/module/nvidia_modeset")
	f.Cards, f.PCIError = cards(root)
	for _, c := range f.Cards {
		if c.Driver == "vfio-pci" {
			f.VFIO++
		}
	}
	f.PCI = len(f.Cards) - f.VFIO
	f.Driven = ReadGPUs(root)
	for _, g := range f.Driven {
		f.GPUs = append(f.GPUs, g.Minor)
	}
	slices.Sort(f.GPUs)
	raw, err := ReadSmall(below(root, "proc/devices"))
	f.Majors, f.MajorsError = ParseMajors(raw), err
	for name, value := range fields(below(root, "proc/driver/nvidia/params")) {
		switch name {
		case "ModifyDeviceFiles":
			f.params.modify = value != 0
		case "DeviceFileMode":
			f.params.mode = value & 0o777
		case "DeviceFileUID":
			f.params.uid = value
		case "DeviceFileGID":
			f.params.gid = value
		}
	}
	f.readCapabilities(root)
	return f
}

func exists(root, path string) bool {
	_, err := os.Stat(below(root, path))
	return err == nil
}

// ParseMajors reads the character devices of a /proc/devices. Only the GPUs'
// own major, 195, is fixed; that of nvidia-uvm can be another after each boot.
func ParseMajors(raw string) map[uint32][]string {
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

// Major is the major of a driver, as far as it is known.
func (f Facts) Major(name string) (uint32, bool) {
	for _, n := range slices.Sorted(maps.Keys(f.Majors)) {
		if slices.Contains(f.Majors[n], name) {
			return n, true
		}
	}
	return 0, false
}

func (f *Facts) readCapabilities(root string) {
	seen := 0
	_ = filepath.WalkDir(below(root, "proc/driver/nvidia/capabilities"), func(path string, d fs.DirEntry, err error) error {
		if seen++; seen > maxCapabilities {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			return nil
		}
		values := fields(path)
		minor, ok := values["DeviceFileMinor"]
		mode, hasMode := values["DeviceFileMode"]
		if modify, said := values["DeviceFileModify"]; !ok || !hasMode || said && modify == 0 {
			return nil
		}
		f.caps = append(f.caps, capability{minor, mode & 0o777})
		return nil
	})
	slices.SortStableFunc(f.caps, func(a, b capability) int { return int(a.minor) - int(b.minor) })
	f.caps = slices.CompactFunc(f.caps, func(a, b capability) bool { return a.minor == b.minor }) // one node each
}

// lines reads the "Name: value" lines of a file of the driver.
func lines(file string) map[string]string {
	raw, _ := ReadSmall(file)
	values := map[string]string{}
	for line := range strings.Lines(raw) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	return values
}

// fields are those of the lines that hold a number.
func fields(file string) map[string]uint32 {
	values := map[string]uint32{}
	for name, value := range lines(file) {
		if n, err := strconv.ParseUint(value, 10, 20); err == nil {
			values[name] = uint32(n)
		}
	}
	return values
}

// ReadSmall reads at most 64 KiB of a file of the kernel, in /proc or /sys.
func ReadSmall(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(raw), err
}

// Nodes lists the nodes that there should be.
func (f Facts) Nodes() []Node {
	var nodes []Node
	add := func(path string, major, minor uint32) {
		nodes = append(nodes, Node{Path: path, Major: major, Minor: minor, Mode: f.params.mode, UID: f.params.uid, GID: f.params.gid, IsChar: true})
	}
	const frontend = 195
	add("/dev/nvidiactl", frontend, 255)
	for _, minor := range f.GPUs {
		add(fmt.Sprintf("/dev/nvidia%d", minor), frontend, minor)
	}
	if f.modeset {
		add("/dev/nvidia-modeset", frontend, 254)
	}
	if major, ok := f.Major("nvidia-uvm"); ok {
		add("/dev/nvidia-uvm", major, 0)
		add("/dev/nvidia-uvm-tools", major, 1)
	}
	if major, ok := f.Major("nvidia-caps"); ok {
		for _, c := range f.caps {
			nodes = append(nodes, Node{Path: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", c.minor), Major: major, Minor: c.minor, Mode: c.mode, IsChar: true})
		}
	}
	return nodes
}
