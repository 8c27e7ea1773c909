package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// checkConfig reports every mistake of the configuration.
func checkConfig(o Options, c *config.Config) []Finding {
	f := findings{check: "configuration"}
	err := o.ConfigError
	if err == nil {
		err = c.Check()
	}
	var mistakes config.Mistakes
	switch {
	case errors.As(err, &mistakes):
		for _, m := range mistakes {
			f.add(Problem, hint.Of(err), "%s", m)
		}
	case err != nil:
		f.add(Problem, hint.Of(err), "%v", err)
	}
	if o.ConfigError != nil {
		f.add(Unknown, "", "what the configuration says of folders and containers is not known: the defaults were taken")
	}
	return f.orOK("the configuration has no mistakes")
}

func checkHost(h hostFacts, guests []guestFacts) []Finding {
	var all []Finding
	if !h.root {
		all = append(all, one("root", Unknown, "run it as root on the node", "much cannot be seen, for this is not run as root")...)
	}
	if h.archError != "" {
		all = append(all, one("processor", Problem, "NVIDIA has no driver for this processor", "%s", h.archError)...)
	}
	all = append(all, checkModule(h, want(guests))...)
	all = append(all, checkUserSpace(h)...)
	all = append(all, checkNouveau(h)...)
	all = append(all, checkNodes(h)...)
	all = append(all, checkBoot(h, guests)...)
	all = append(all, checkProxmox(h)...)
	all = append(all, checkState(h)...)
	return append(all, checkSnippets(h, guests)...)
}

// want counts the containers that want a driver, or might.
func want(guests []guestFacts) int {
	n := 0
	for _, g := range guests {
		if !g.unwanted() {
			n++
		}
	}
	return n
}

func checkModule(h hostFacts, guests int) []Finding {
	const check = "kernel-module"
	level := Warning
	if guests > 0 {
		level = Problem // somebody wants it
	}
	const load = "install the driver on the host, then: modprobe nvidia"
	switch {
	case h.moduleError != "":
		return one(check, Problem, "reboot the host after a driver change, or report this form of the file as a bug", "%s", h.moduleError)
	case h.module != "":
		return one(check, OK, "", "NVIDIA's kernel module %s is loaded", h.module)
	case h.modulesError != "":
		return one(check, Unknown, "", "whether NVIDIA's kernel module is loaded cannot be seen: %s", h.modulesError)
	case h.kernel.PCI > 0:
		return one(check, Problem, "modprobe nvidia; dmesg says why it is not loaded", "the host has an NVIDIA GPU, but the kernel module nvidia is not loaded")
	case h.kernel.VFIO > 0:
		return one(check, level, "take the GPU out of the virtual machine's configuration and of vfio's, then load nvidia", "the GPUs of this host are handed to virtual machines (vfio-pci), and NVIDIA's kernel module is not loaded")
	case h.kernel.PCIError != nil:
		return one(check, level, load, "NVIDIA's kernel module is not loaded; whether there is a GPU cannot be seen: %v", h.kernel.PCIError)
	}
	return one(check, level, "put an NVIDIA GPU into the host (lspci -d 10de: lists them); a container that can do without: enabled = false below its [containers.VMID]", "this host has no NVIDIA GPU and NVIDIA's kernel module is not loaded")
}

// checkUserSpace finds the host that was upgraded and not rebooted.
func checkUserSpace(h hostFacts) []Finding {
	if h.module == "" || h.userSpace == "" || h.userSpace == h.module {
		return nil
	}
	return one("host-driver", Warning, "reboot", "the host's own libraries are of driver %s, its loaded kernel module is %s: the host was upgraded and not rebooted, and after the reboot the containers need %s", h.userSpace, h.module, h.userSpace)
}

func checkNouveau(h hostFacts) []Finding {
	const check = "nouveau"
	switch {
	case h.modulesError != "":
		return one(check, Unknown, "", "whether nouveau is loaded cannot be seen: %s", h.modulesError)
	case !slices.Contains(h.modules, "nouveau"):
		return one(check, OK, "", "nouveau is not loaded")
	}
	level := Problem
	if h.module != "" {
		level = Warning // it drives another card
	}
	return one(check, level, "echo blacklist nouveau > /etc/modprobe.d/blacklist-nouveau.conf; update-initramfs -u; reboot",
		"nouveau is loaded: NVIDIA's driver cannot have a GPU that nouveau holds")
}

// install brings the program, its hookscript and its units.
const install = "apt-get install ./pve-nvidia-hook_*.deb"

const makeNodes = "pve-nvidia-hook devices"

// checkNodes compares the host's device nodes with what the kernel says of them.
func checkNodes(h hostFacts) []Finding {
	f := findings{check: "device-nodes"}
	if h.module == "" {
		if len(h.present) > 0 {
			f.add(Unknown, "", "device nodes are there, but without the kernel module nothing says what they should be")
		}
		return f.list
	}
	if h.kernel.MajorsError != nil {
		f.add(Unknown, "", "the numbers of the device nodes cannot be checked: %v", h.kernel.MajorsError)
	} else if _, ok := h.kernel.Major("nvidia-uvm"); !ok {
		f.add(Problem, "modprobe nvidia-uvm; "+makeNodes, "the kernel module nvidia-uvm is not loaded, so that CUDA cannot work")
	}
	if len(h.kernel.GPUs) == 0 {
		f.add(Unknown, "dmesg | grep -i nvrm", "which GPUs the kernel module drives cannot be seen in /proc/driver/nvidia/gpus")
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
			f.add(Problem, makeNodes, "%s on the host is no device node: something made a file of that name", n.Path)
		case n.Major != want.Major || n.Minor != want.Minor:
			f.add(Problem, makeNodes, "%s on the host has the numbers %d:%d, the driver has %d:%d now", n.Path, n.Major, n.Minor, want.Major, want.Minor)
		}
	}
	if len(missing) > 0 {
		f.add(Problem, makeNodes, "the host lacks %s", strings.Join(missing, ", "))
	}
	if len(others) > 0 {
		f.add(Warning, makeNodes, "the host lacks %s, without which graphics or parts of a GPU (MIG) do not work in containers", strings.Join(others, ", "))
	}
	return f.orOK("the host's device nodes are in place")
}

// checkBoot: nothing else makes /dev/nvidia-uvm at boot, and Proxmox starts no
// container with a devN entry whose node is missing.
func checkBoot(h hostFacts, guests []guestFacts) []Finding {
	const check = "devices-unit"
	switch {
	case len(guests) == 0:
		return nil
	case !h.bootKnown:
		return one(check, Unknown, "", "whether the device nodes are made at boot cannot be seen: there is no folder etc/systemd/system")
	case !h.bootUnit && !h.bootFile:
		return one(check, Warning, install, "nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not installed")
	case !h.bootUnit:
		return one(check, Warning, "systemctl enable --now pve-nvidia-hook-devices", "nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not enabled")
	}
	return one(check, OK, "", "the device nodes are made at boot")
}

func checkProxmox(h hostFacts) []Finding {
	const check = "proxmox"
	if h.pveError != "" {
		return one(check, Unknown, "", "hookscripts, device entries and the list of containers cannot be seen: %s", h.pveError)
	}
	f := findings{check: check}
	for _, g := range h.guests {
		if g.Node == h.local && g.Err != nil {
			f.add(Unknown, "", "the configuration of %s cannot be read: %v", g, g.Err)
		}
	}
	return f.orOK("this is node %s of Proxmox VE", h.local)
}

// checkState: what stands in the state folder decides what a root program does,
// so that no run keeps anything in one that others may write.
func checkState(h hostFacts) []Finding {
	const check = "state"
	switch {
	case h.stateError != "":
		return one(check, Unknown, "", "the state folder cannot be seen: %s", h.stateError)
	case !h.stateThere:
		return one(check, OK, "", "there is no state folder yet: it is made by the first run")
	case !h.stateMode.IsDir():
		return one(check, Problem, "make it a folder, or set paths.state to another", "the state folder %s is no folder (%s): no run is kept", h.state, h.stateMode.Type())
	case h.stateMode.Perm()&0o022 != 0:
		return one(check, Problem, "chmod 700 "+h.state, "the state folder %s has mode %04o: others than root may write it, and no run is kept", h.state, h.stateMode.Perm())
	}
	return one(check, OK, "", "the state folder is root's alone")
}

// checkSnippets looks at what all containers with the hook depend on.
func checkSnippets(h hostFacts, guests []guestFacts) []Finding {
	volumes := map[string]bool{}
	for _, g := range guests {
		for _, s := range []script{g.hook, g.chain} {
			if s.file != "" {
				volumes[s.volume] = true
			}
		}
	}
	if len(volumes) == 0 {
		return nil
	}
	f := findings{check: "hook-program"}
	if !h.program {
		f.add(Problem, install, "the hookscript does nothing: there is no program /%s", program)
	}
	for _, volume := range slices.Sorted(keys(volumes)) {
		if id, _, _ := strings.Cut(volume, ":"); h.late[id] {
			f.add(Warning, fmt.Sprintf("install pve-nvidia-hook on every node, then enable with --storage local; or give %s a line in /etc/fstab", h.storages[id].Path),
				"Proxmox VE does not mount storage %s for a hookscript: after a boot containers with %s may not start", id, volume)
		}
		others := without(h, volume)
		if len(others) == 0 {
			continue
		}
		file, _ := h.storages.Path(volume)
		f.add(Unknown, fmt.Sprintf("ssh %s test -x %s, and install pve-nvidia-hook there where it fails", others[0], file),
			"whether %s stands on %s too cannot be seen from here; a container that migrates to a node without it does not start", volume, strings.Join(others, ", "))
	}
	return f.orOK("the program and its hookscript are in place")
}

// without names the other nodes that do not see the storage of a volume.
func without(h hostFacts, volume string) []string {
	id, _, _ := strings.Cut(volume, ":")
	s := h.storages[id]
	return slices.DeleteFunc(slices.Clone(h.nodes), func(n string) bool {
		return n == h.local || s.Shared && (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n))
	})
}
