package pve

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Guest is a container or a VM of the cluster.
type Guest struct {
	VMID int
	Node string
	VM   bool // a virtual machine, not a container
	Conf Conf
	Err  error // its configuration could not be read
}

// kinds are the folders of a node's guests.
var kinds = []struct {
	dir string
	vm  bool
}{{"lxc", false}, {"qemu-server", true}}

// Guests lists the guests of all nodes of the cluster, by VMID. root is the
// folder that stands for / ("" is /). A guest whose file cannot be read has Err set.
func Guests(root string) ([]Guest, error) { return guests(root, "*") }

// Find returns the guest of that VMID, wherever in the cluster it is, and false when there is none.
func Find(root string, vmid int) (Guest, bool, error) {
	list, err := guests(root, strconv.Itoa(vmid))
	if err != nil || len(list) == 0 {
		return Guest{}, false, err
	}
	return list[0], true, nil
}

func guests(root, name string) ([]Guest, error) {
	if err := CheckNode(root); err != nil {
		return nil, err
	}
	nodes, err := Nodes(root)
	if err != nil {
		return nil, err
	}
	var list []Guest
	for _, node := range nodes {
		for _, kind := range kinds {
			// Glob has no error but for a bad pattern, and node names hold no pattern.
			files, _ := filepath.Glob(at(root, "etc/pve/nodes", node, kind.dir, name+".conf"))
			for _, file := range files {
				vmid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".conf"))
				if err != nil || vmid < 100 {
					continue
				}
				g := Guest{VMID: vmid, Node: node, VM: kind.vm}
				g.Conf, g.Err = readConf(file, kind.vm)
				g.Conf.VMID = vmid
				if errors.Is(g.Err, fs.ErrNotExist) {
					continue // it was destroyed or migrated meanwhile
				}
				list = append(list, g)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Guest) int { return cmp.Compare(a.VMID, b.VMID) })
	return list, nil
}

// ReadConf reads the configuration of a container of this node.
func ReadConf(root string, vmid int) (Conf, error) {
	c, err := readConf(at(root, "etc/pve/lxc", strconv.Itoa(vmid)+".conf"), false)
	c.VMID = vmid
	return c, err
}

func readConf(file string, vm bool) (Conf, error) {
	f, err := os.Open(file)
	if err != nil {
		return Conf{}, err
	}
	defer f.Close()
	c, err := ParseConf(f, vm)
	if err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// Nodes names the nodes of the cluster, sorted.
func Nodes(root string) ([]string, error) {
	entries, err := os.ReadDir(at(root, "etc/pve/nodes"))
	if err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	var nodes []string
	for _, e := range entries {
		if e.IsDir() {
			nodes = append(nodes, e.Name())
		}
	}
	return nodes, nil
}

// LocalNode is this node's name: what /etc/pve/local leads to, else the host name up to its first dot.
func LocalNode(root string) string {
	if target, err := os.Readlink(at(root, "etc/pve/local")); err == nil {
		return filepath.Base(target)
	}
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return name
}

// ErrNoNode means that this machine is no node of Proxmox VE.
var ErrNoNode = errors.New("this machine is not a Proxmox VE node")

// CheckNode says whether the machine below root is a node of Proxmox VE whose
// cluster file system is mounted. The error is ErrNoNode where there is none.
func CheckNode(root string) error {
	dir := at(root, "etc/pve/nodes")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if _, err := os.Stat(at(root, "etc/pve")); err != nil {
		return hint.Errorf("run it on a node of Proxmox VE", "%w: %s is not there", ErrNoNode, at(root, "etc/pve"))
	}
	return hint.Errorf("look at systemctl status pve-cluster", "the cluster file system is not mounted: %s is not there", dir)
}

// WhichHere is the hint to a number that no container of this node has.
const WhichHere = "pct list shows the containers of this node; for LXC without Proxmox set paths.lxc"

// NotHere says of a guest that it is no container of the node local, nil when it is one.
func (g Guest) NotHere(local string) error {
	switch {
	case g.VM:
		return hint.Errorf("a VM gets a whole GPU by PCI passthrough; this program is for containers", "%s is a virtual machine, not a container", g)
	case g.Node != local:
		return hint.Errorf("run it on "+g.Node, "container %s is on node %s, this is %s", g, g.Node, local)
	}
	return nil
}

// String is such as "101 (web)".
func (g Guest) String() string {
	if g.Conf.Hostname == "" {
		return strconv.Itoa(g.VMID)
	}
	return fmt.Sprintf("%d (%s)", g.VMID, g.Conf.Hostname)
}

// at joins root and a path below it; "" stands for /.
func at(root string, path ...string) string {
	return filepath.Join(append([]string{cmp.Or(root, "/")}, path...)...)
}
