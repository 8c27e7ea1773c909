package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// hostChecks look at what everything else stands on.
func hostChecks() []check {
	return []check{{
		name: "configuration", about: "no configuration file has mistakes",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			err := h.configError
			if err == nil {
				err = h.config.Check()
			}
			var mistakes config.Mistakes
			switch {
			case errors.As(err, &mistakes):
				for _, m := range mistakes {
					out.add(Problem, hint.Of(err), "%s", m)
				}
			case err != nil:
				out.add(Problem, hint.Of(err), "%v", err)
			}
			if h.configError != nil {
				out.add(Unknown, "", "the settings for folders and containers are not known: the defaults are used")
			}
			out.orOK("the configuration has no mistakes")
		},
	}}
}

// install brings the program, its hookscript and its units.
const install = "apt-get install ./pve-nvidia-hook_*.deb"

const makeNodes = "pve-nvidia-hook devices"

// Places on the node.
const (
	program  = "usr/bin/pve-nvidia-hook"
	bootName = "pve-nvidia-hook-devices.service"
	units    = "etc/systemd/system"
)

// nodeChecks look at what the containers of this node need from it.
func nodeChecks() []check {
	return []check{{
		name: "device-nodes", about: "the NVIDIA nodes in /dev have the numbers that the driver has now",
		after: []string{"kernel-module"},
		run:   checkNodes,
	}, {
		name: "devices-unit", about: "a unit makes /dev/nvidia-uvm at boot, before guests start",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			// Nothing else makes it, and Proxmox starts no container with a devN entry
			// whose node is missing.
			if len(h.guests) == 0 {
				return
			}
			_, err := os.Lstat(h.Path(units + "/multi-user.target.wants/" + bootName))
			there := slices.ContainsFunc([]string{units, "lib/systemd/system", "usr/lib/systemd/system"},
				func(dir string) bool { return h.has(dir + "/" + bootName) })
			switch {
			case !h.has(units):
				out.add(Unknown, "", "whether the device nodes are made at boot is not known: there is no folder %s", units)
			case err != nil && !there:
				out.add(Warning, install, "nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not installed")
			case err != nil:
				out.add(Warning, "systemctl enable --now pve-nvidia-hook-devices", "nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not enabled")
			}
			out.orOK("the device nodes are made at boot")
		},
	}, {
		name: "proxmox", about: "this is a node of Proxmox VE, and its files can be read",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			if h.pveError != nil {
				fix := hint.Of(h.pveError)
				if errors.Is(h.pveError, pve.ErrNoNode) { // it need not be one
					fix = ""
				}
				out.add(Unknown, fix, "hookscripts, device entries and the list of containers cannot be read: %v", h.pveError)
			}
			for _, g := range h.listed {
				if g.Node == h.local && g.Err != nil {
					out.add(Unknown, "", "the configuration of %s cannot be read: %v", g, g.Err)
				}
			}
			out.orOK("this is node %s of Proxmox VE", h.local)
		},
	}, {
		name: "state", about: "only root can write to the state folder",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			// What stands there decides what a root program does.
			info, err := os.Lstat(h.state)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				out.add(OK, "", "there is no state folder yet: the first run makes it")
			case err != nil:
				out.add(Unknown, "", "the state folder cannot be read: %v", err)
			case !info.IsDir():
				out.add(Problem, "make it a folder, or set paths.state to another", "the state folder %s is not a folder (%s): no run is recorded", h.state, info.Mode().Type())
			case info.Mode().Perm()&0o022 != 0:
				out.add(Problem, "chmod 700 "+h.state, "the state folder %s has mode %04o: others than root can write to it, so no run is recorded", h.state, info.Mode().Perm())
			}
			out.orOK("only root can write to the state folder")
		},
	}, {
		name: "hook-program", about: "the hookscript finds the program, on this and on other nodes",
		run: checkSnippets,
	}}
}

// checkNodes compares the host's device nodes with what the kernel says of them.
func checkNodes(h *hostFacts, _ *guestFacts, out *findings) {
	if h.module == "" {
		if len(h.present) > 0 {
			out.add(Unknown, "", "there are device nodes, but without the kernel module it is not known which numbers they should have")
		}
		return
	}
	if h.kernel.MajorsError != nil {
		out.add(Unknown, "", "the numbers of the device nodes cannot be checked: %v", h.kernel.MajorsError)
	} else if _, ok := h.kernel.Major("nvidia-uvm"); !ok {
		out.add(Problem, "modprobe nvidia-uvm; "+makeNodes, "the kernel module nvidia-uvm is not loaded, so CUDA cannot work")
	}
	if len(h.kernel.GPUs) == 0 {
		out.add(Unknown, "dmesg | grep -i nvrm", "the kernel module lists no GPU in /proc/driver/nvidia/gpus")
	}
	var missing, others []string
	for _, want := range h.kernel.Nodes() {
		n, there := h.node(want.Path)
		switch {
		case !there && (strings.HasSuffix(want.Path, "-modeset") || strings.HasPrefix(want.Path, "/dev/nvidia-caps/")):
			others = append(others, want.Path)
		case !there:
			missing = append(missing, want.Path)
		case !n.IsChar:
			out.add(Problem, makeNodes, "%s on the host is not a device node: a program has made a file with that name", n.Path)
		case n.Major != want.Major || n.Minor != want.Minor:
			out.add(Problem, makeNodes, "%s on the host has the numbers %d:%d, the driver has %d:%d now", n.Path, n.Major, n.Minor, want.Major, want.Minor)
		}
	}
	if len(missing) > 0 {
		out.add(Problem, makeNodes, "the host lacks %s", strings.Join(missing, ", "))
	}
	if len(others) > 0 {
		out.add(Warning, makeNodes, "the host lacks %s: without them graphics or parts of a GPU (MIG) do not work in containers", strings.Join(others, ", "))
	}
	out.orOK("the host's device nodes are in place")
}

// checkSnippets looks at what all containers with the hook depend on.
func checkSnippets(h *hostFacts, _ *guestFacts, out *findings) {
	volumes := map[string]bool{}
	for _, g := range h.guests {
		for _, s := range []script{g.hook, g.chain} {
			if s.file != "" {
				volumes[s.volume] = true
			}
		}
	}
	if len(volumes) == 0 {
		return
	}
	if info, err := os.Stat(h.Path(program)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		out.add(Problem, install, "the hookscript does nothing: there is no program /%s", program)
	}
	for _, volume := range slices.Sorted(maps.Keys(volumes)) {
		id, _, _ := strings.Cut(volume, ":")
		s := h.storages[id]
		if h.late[id] {
			out.add(Warning, fmt.Sprintf("install pve-nvidia-hook on every node, then enable with --storage local; or add %s to /etc/fstab", s.Path),
				"Proxmox VE does not mount storage %s for a hookscript: after a boot containers with %s may not start", id, volume)
		}
		// The other nodes that do not see the storage.
		others := slices.DeleteFunc(slices.Clone(h.nodes), func(n string) bool {
			return n == h.local || s.Shared && (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n))
		})
		if len(others) > 0 {
			file, _ := h.storages.Path(volume)
			fix := "install pve-nvidia-hook there"
			if pve.ChainOf(volume) != "" {
				fix = "run there: pve-nvidia-hook devices"
			} else if !pve.Ours(volume) {
				fix = "copy it there"
			}
			out.add(Unknown, fmt.Sprintf("ssh %s ls -l %s; if it is not there, %s", others[0], file, fix),
				"whether %s is on %s too is not known here; a container that migrates to a node without it does not start", volume, strings.Join(others, ", "))
		}
	}
	out.orOK("the program and its hookscript are in place")
}
