package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// hostFacts are what more than one check needs to know of the node. An error
// beside a fact means that it is not known.
type hostFacts struct {
	host.Host
	config      *config.Config
	configError error  // its mistakes; config has the defaults then
	state       string // the state folder

	arch         string
	module       version.Driver // "" when none is loaded
	moduleError  error
	modules      []string // loaded kernel modules
	modulesError error
	kernel       host.Facts
	present      []host.Node
	built        map[string]string // files of NVIDIA's module, by the kernel that it is for
	log          []string          // of the kernel, what it says of NVIDIA and of modules
	logError     error
	persistence  string // what nvidia-smi says of persistence mode; "" when it was not asked
	cgroup2      bool   // control groups of version 2 alone, as on every Proxmox VE 8 or 9 by default

	pveError error // why this is no working node of Proxmox VE; nil when it is one
	local    string
	nodes    []string
	listed   []pve.Guest
	storages pve.Storages
	late     map[string]bool // storages that may not be mounted yet when guests start at boot
	noStore  error           // why there are no storages

	guests []guestFacts
	cache  cacheFacts
}

func lookHost(o Options, c *config.Config, node config.Settings) hostFacts {
	h := hostFacts{Host: o.Host, config: c, configError: o.ConfigError, state: node.Paths.State}
	h.arch, _ = host.Arch() // the package is for processors that have one
	h.module, h.moduleError = h.Module()
	h.modules, h.modulesError = loadedModules(h.Host)
	h.kernel = host.ReadFacts(h.Root)
	h.present = host.NodesPresent(h.Root)
	h.built = h.BuiltModules()
	h.log, h.logError = host.KernelLog(h.Root, ofInterest().MatchString)
	h.cgroup2 = h.has("sys/fs/cgroup/cgroup.controllers") // with version 1 beside it, it lies in a folder below
	h.local = pve.LocalNode(h.Root)
	h.listed, h.pveError = pve.Guests(h.Root)
	if h.pveError == nil {
		h.nodes, _ = pve.Nodes(h.Root) // as Guests could just now
		h.storages, h.noStore = pve.ReadStorages(h.Root)
		h.late = map[string]bool{}
		for id, s := range h.storages {
			h.late[id] = s.Late(h.Root)
		}
	}
	return h
}

// has reports whether a file of the node is there.
func (h hostFacts) has(name string) bool {
	_, err := os.Stat(h.Path(name))
	return err == nil
}

// wanting counts the containers that want a driver, or might.
func (h hostFacts) wanting() int {
	n := 0
	for _, g := range h.guests {
		if !g.unwanted() {
			n++
		}
	}
	return n
}

func (h hostFacts) node(path string) (host.Node, bool) {
	i := slices.IndexFunc(h.present, func(n host.Node) bool { return n.Path == path })
	if i < 0 {
		return host.Node{}, false
	}
	return h.present[i], true
}

// expects reports whether the driver would have a node of that name now.
func (h hostFacts) expects(path string) bool {
	return slices.ContainsFunc(h.kernel.Nodes(), func(n host.Node) bool { return n.Path == path })
}

// loadedModules names the kernel's modules. sys/module has those that are built
// in as well, and is there on kernels that load none.
func loadedModules(h host.Host) ([]string, error) {
	var names []string
	raw, err := host.ReadSmall(h.Path("proc/modules"))
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

// userSpaces lists the versions of the node's own libnvidia-ml, each with a file.
func (h hostFacts) userSpaces() map[version.Driver]string {
	found := map[version.Driver]string{}
	for _, dir := range []string{"usr/lib/" + h.arch + "-linux-gnu", "usr/lib/" + h.arch + "-linux-gnu/nvidia/current", "usr/lib64"} {
		files, _ := filepath.Glob(h.Path(dir + "/libnvidia-ml.so.*"))
		for _, file := range files {
			if m := libraryVersion().FindStringSubmatch(filepath.Base(file)); m != nil {
				found[version.Driver(m[1])] = "/" + filepath.Join(dir, filepath.Base(file))
			}
		}
	}
	return found
}

// smiLimit ends a call of the host's nvidia-smi, which may take seconds where no
// program holds the GPU, and hangs where the GPU does.
const smiLimit = 10 * time.Second

// lookPersistence asks the host's own nvidia-smi for the persistence mode. It is
// not started where it could load a module or make a node, nor for another node's
// facts.
func lookPersistence(ctx context.Context, h hostFacts) string {
	if filepath.Clean("/"+h.Root) != "/" || h.module == "" || h.wanting() == 0 {
		return ""
	}
	var nodes findings
	if checkNodes(&h, nil, &nodes); nodes.list[0].Level != OK {
		return ""
	}
	smi, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return ""
	}
	return askPersistence(ctx, smi)
}

// askPersistence gives a process up that a GPU holds in the kernel, and that no
// signal ends.
func askPersistence(ctx context.Context, smi string) string {
	ctx, cancel := context.WithTimeout(ctx, smiLimit)
	defer cancel()
	answer := make(chan string, 1)
	go func() {
		cmd := exec.CommandContext(ctx, smi, "--query-gpu=persistence_mode", "--format=csv,noheader")
		cmd.WaitDelay = time.Second
		out, _ := cmd.Output()
		answer <- string(out)
	}()
	select {
	case out := <-answer:
		return out
	case <-ctx.Done():
		return ""
	}
}
