package host

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// GPU is a card as the NVIDIA driver tells of it in
// /proc/driver/nvidia/gpus/ADDRESS/information.
type GPU struct {
	Index     int    // as nvidia-smi counts: by PCI address, without excluded cards
	Model     string // NVIDIA A10
	UUID      string // GPU-...; "" while the driver does not know it
	Address   string // 0000:01:00.0
	Minor     uint32 // of its device node
	Instances []Instance
}

// Instance is a MIG compute instance. Which comes first is taken from the numbers
// of GPU instance and compute instance, as nvidia-smi lists them.
type Instance struct {
	GPU, Compute int      // the numbers of GPU instance and compute instance
	Caps         []uint32 // minors of the two nodes of nvidia-caps that open it
}

// Node is the path of its device node.
func (g GPU) Node() string { return fmt.Sprintf("/dev/nvidia%d", g.Minor) }

// String is such as "NVIDIA A10 (GPU 0, 0000:01:00.0, GPU-5c4f..., /dev/nvidia0)".
func (g GPU) String() string {
	text := fmt.Sprintf("%s (GPU %d", cmp.Or(g.Model, "a card"), g.Index)
	for _, more := range []string{g.Address, g.UUID, g.Node()} {
		if more != "" {
			text += ", " + more
		}
	}
	return text + ")"
}

// infoFile is the file in which the driver tells of the card at a PCI address.
func infoFile(root, address string) string {
	return below(root, "proc/driver/nvidia/gpus", address, "information")
}

// ReadGPUs lists the cards that the driver drives, below root ("" is /), by index.
func ReadGPUs(root string) []GPU {
	files, _ := filepath.Glob(infoFile(root, "*"))
	var gpus []GPU
	for _, file := range files {
		said := lines(file)
		minor, err := strconv.ParseUint(said["Device Minor"], 10, 8)
		if err != nil || minor > 253 || said["GPU Excluded"] == "Yes" { // 254 and 255 are modeset and control
			continue
		}
		g := GPU{Address: filepath.Base(filepath.Dir(file)), Model: said["Model"], UUID: said["GPU UUID"], Minor: uint32(minor)}
		if strings.Contains(g.UUID, "?") { // so the driver writes one that it has not asked for yet
			g.UUID = ""
		}
		g.Instances = instances(root, g.Minor)
		gpus = append(gpus, g)
	}
	slices.SortFunc(gpus, func(a, b GPU) int {
		return cmp.Or(cmp.Compare(len(a.Address), len(b.Address)), cmp.Compare(a.Address, b.Address))
	})
	for i := range gpus {
		gpus[i].Index = i
	}
	return gpus
}

// instances lists a card's MIG instances, of which each compute instance has a
// file "access", and its GPU instance another.
func instances(root string, minor uint32) []Instance {
	dir := below(root, fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig", minor))
	files, _ := filepath.Glob(filepath.Join(dir, "gi*/ci*/access"))
	var list []Instance
	for _, file := range files {
		ci, gi := filepath.Dir(file), filepath.Dir(filepath.Dir(file))
		c, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(ci), "ci"))
		g, err2 := strconv.Atoi(strings.TrimPrefix(filepath.Base(gi), "gi"))
		own, ok := fields(file)["DeviceFileMinor"]
		parent, ok2 := fields(filepath.Join(gi, "access"))["DeviceFileMinor"]
		if err == nil && err2 == nil && ok && ok2 {
			list = append(list, Instance{g, c, []uint32{parent, own}})
		}
	}
	slices.SortFunc(list, func(a, b Instance) int { return cmp.Or(cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.Compute, b.Compute)) })
	return list
}

// HoldCaps makes nodes of nvidia-caps that devN entries name and that are missing.
// MIG instances do not survive a reboot; without the node of one Proxmox would not
// start the container, and what the node opens the driver decides. It returns the
// minors that no instance or capability has now.
func HoldCaps(root string, minors []uint32, say func(string)) (gone []uint32, err error) {
	facts := ReadFacts(root)
	major, ok := facts.Major("nvidia-caps")
	for _, minor := range minors {
		if slices.ContainsFunc(facts.caps, func(c capability) bool { return c.minor == minor }) {
			continue
		}
		gone = append(gone, minor)
		want := Node{Path: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), Major: major, Minor: minor, Mode: 0o444, IsChar: true}
		if old, e := lookAt(root, want.Path); !ok || e == nil && old.IsChar && old.Major == major && old.Minor == minor {
			continue
		}
		if err := want.make(root, false); err != nil {
			return gone, err
		}
		say("made " + want.Path + ", so that containers that name it can start")
	}
	return gone, nil
}

// DRI lists the nodes in /dev/dri of a card: renderD* and card*.
func (g GPU) DRI(root string) []string {
	files, _ := filepath.Glob(below(root, "sys/class/drm/*"))
	var nodes []string
	for _, file := range files {
		name := filepath.Base(file)
		if !driName().MatchString(name) {
			continue // a connector such as card0-DP-1
		}
		if target, err := os.Readlink(filepath.Join(file, "device")); err == nil && filepath.Base(target) == g.Address {
			nodes = append(nodes, "/dev/dri/"+name)
		}
	}
	return nodes
}

var driName = lazy.Regexp(`^(renderD|card)[0-9]+$`)
