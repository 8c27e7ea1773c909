package doctor

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
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
	kernel              host.Facts
	present             []host.Node
	bootUnit, bootKnown bool // the unit that makes the nodes at boot is enabled
	bootFile            bool // that unit is installed
	program             bool // the program stands where the snippet calls it
	cgroup2             bool // control groups of version 2 alone, as on every Proxmox VE 8 or 9 by default

	root       bool // who asks is root
	stateError string
	state      string      // the state folder
	stateMode  fs.FileMode // of it
	stateThere bool        // it was made already

	noPVE    bool   // this is no node of Proxmox VE at all
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
	bootUnit = "etc/systemd/system/multi-user.target.wants/" + bootName
	bootName = "pve-nvidia-hook-devices.service"
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
	f.kernel = host.ReadFacts(h.Root)
	f.present = host.NodesPresent(h.Root)
	if _, err := os.Stat(h.Path("etc/systemd/system")); err == nil {
		f.bootKnown = true
		_, err := os.Lstat(h.Path(bootUnit))
		f.bootUnit = err == nil
	}
	for _, dir := range []string{"etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"} {
		_, err := os.Stat(h.Path(filepath.Join(dir, bootName)))
		f.bootFile = f.bootFile || err == nil
	}
	if info, err := os.Stat(h.Path(program)); err == nil {
		f.program = info.Mode().IsRegular() && info.Mode()&0o111 != 0
	}
	_, err = os.Stat(h.Path("sys/fs/cgroup/cgroup.controllers")) // with version 1 beside it, it lies in a folder below
	f.cgroup2 = err == nil
	f.local = pve.LocalNode(h.Root)
	f.guests, err = pve.Guests(h.Root)
	f.pveError, f.noPVE = text(err), errors.Is(err, pve.ErrNoNode)
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

var libraryVersion = lazy.Regexp(`^libnvidia-ml\.so\.([0-9]+\.[0-9]+(?:\.[0-9]+)?)$`)

// hostUserSpace is the version of the node's own libnvidia-ml, when there is just one.
func hostUserSpace(h host.Host, arch string) version.Driver {
	found := map[version.Driver]bool{}
	var v version.Driver
	for _, dir := range []string{"usr/lib/" + arch + "-linux-gnu", "usr/lib/" + arch + "-linux-gnu/nvidia/current", "usr/lib64"} {
		files, _ := filepath.Glob(h.Path(dir + "/libnvidia-ml.so.*"))
		for _, file := range files {
			if m := libraryVersion().FindStringSubmatch(filepath.Base(file)); m != nil {
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

func (f hostFacts) node(path string) (host.Node, bool) {
	i := slices.IndexFunc(f.present, func(n host.Node) bool { return n.Path == path })
	if i < 0 {
		return host.Node{}, false
	}
	return f.present[i], true
}
