package doctor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// cardChecks look at the GPUs of the host and at its driver. Those before
// kernel-module are reasons why it is not loaded.
func cardChecks() []check {
	return []check{{
		name: "nouveau", about: "the driver nouveau, which would hold the GPU, is not loaded",
		run: checkNouveau,
	}, {
		name: "vgpu", about: "the driver is not the vGPU host driver, which containers cannot use",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			const name = "nvidia_vgpu_vfio"
			if slices.Contains(h.modules, name) || h.has("sys/module/"+name) {
				out.add(h.level(), "install the ordinary driver (NVIDIA-Linux-*.run or the distribution's packages) on the host instead, and reboot",
					"the host has the vGPU host driver (vgpu-kvm): it is for virtual machines, and containers cannot use it")
			}
		},
	}, {
		name: "module-build", about: "NVIDIA's kernel module is built for the running kernel",
		run: checkBuild,
	}, {
		name: "module-signed", about: "Secure Boot or lockdown does not keep the kernel from loading it",
		run: checkSigned,
	}, {
		name: "gpu-branch", about: "the driver branch still supports the GPUs (470 is the last one for Kepler, 580 for Maxwell, Pascal and Volta)",
		run: checkBranch,
	}, {
		name: "kernel-module", about: "NVIDIA's kernel module is loaded and its version known",
		after: []string{"nouveau", "vgpu", "module-build", "module-signed", "gpu-branch"},
		run:   checkModule,
	}, {
		name: "host-driver", about: "the host's own libraries have one version, that of the module",
		run: checkUserSpace,
	}, {
		name: "kernel-log", about: "the kernel log has no errors of a GPU (Xid, GSP firmware)",
		run: checkLog,
	}, {
		name: "persistence", about: "persistence mode keeps an unused GPU ready",
		run: func(h *hostFacts, _ *guestFacts, out *findings) {
			switch {
			case strings.Contains(h.persistence, "Disabled"):
				out.add(Warning, "systemctl enable --now nvidia-persistenced, or until the next boot: nvidia-smi -pm 1",
					"persistence mode is off: a GPU that no program uses is shut down, the next program waits seconds for it, and settings such as a power limit are lost")
			case strings.Contains(h.persistence, "Enabled"):
				out.add(OK, "", "persistence mode is on")
			}
		},
	}}
}

// level is that of a fault of the driver: a problem when a container wants it.
func (h *hostFacts) level() Level {
	if h.wanting() > 0 {
		return Problem
	}
	return Warning
}

// idle reports whether the host has a GPU for NVIDIA's driver and no module is
// loaded that would drive it.
func (h *hostFacts) idle() bool {
	return h.module == "" && h.moduleError == nil && h.modulesError == nil && h.kernel.PCI > 0
}

// held names the GPUs that a kernel driver holds.
func (h *hostFacts) held(driver string) string {
	var names []string
	for _, c := range h.kernel.Cards {
		if c.Driver == driver {
			names = append(names, c.String())
		}
	}
	return strings.Join(names, ", ")
}

func checkNouveau(h *hostFacts, _ *guestFacts, out *findings) {
	const fix = "echo blacklist nouveau > /etc/modprobe.d/blacklist-nouveau.conf; update-initramfs -u; reboot"
	held := h.held("nouveau")
	switch {
	case held != "":
		out.add(Problem, fix, "nouveau is loaded and holds %s: NVIDIA's driver cannot use it", held)
	case h.modulesError != nil:
		out.add(Unknown, "", "whether nouveau is loaded is not known: %v", h.modulesError)
	case slices.Contains(h.modules, "nouveau"):
		level := Problem
		if h.module != "" {
			level = Warning
		}
		out.add(level, fix, "nouveau is loaded: NVIDIA's driver cannot use a GPU that nouveau holds")
	}
	out.orOK("nouveau is not loaded")
}

func checkModule(h *hostFacts, _ *guestFacts, out *findings) {
	const load = "install the driver on the host, then: modprobe nvidia"
	switch {
	case h.moduleError != nil:
		out.add(Problem, "reboot the host after a driver change, or report this form of the file as a bug", "%v", h.moduleError)
	case h.module != "":
		out.add(OK, "", "NVIDIA's kernel module %s is loaded", h.module)
	case h.modulesError != nil:
		out.add(Unknown, "", "whether NVIDIA's kernel module is loaded is not known: %v", h.modulesError)
	case h.kernel.PCI > 0 && h.Kernel() != "" && len(h.built) == 0 && len(h.userSpaces()) == 0:
		out.add(Problem, load, "the host has an NVIDIA GPU, but no NVIDIA driver")
	case h.kernel.PCI > 0:
		out.add(Problem, "modprobe nvidia; dmesg says why it is not loaded", "the host has an NVIDIA GPU, but the kernel module nvidia is not loaded")
	case h.kernel.VFIO > 0:
		out.add(h.level(), "remove the hostpci line of the virtual machine (qm set VMID --delete hostpci0) and what binds the GPU to vfio-pci in /etc/modprobe.d, then reboot",
			"the GPUs of this host are reserved for virtual machines (vfio-pci has %s), and NVIDIA's kernel module is not loaded", h.held("vfio-pci"))
	case h.kernel.PCIError != nil:
		out.add(h.level(), load, "NVIDIA's kernel module is not loaded; whether there is a GPU is not known: %v", h.kernel.PCIError)
	default:
		out.add(h.level(), "if the host has one, see whether lspci -d 10de: lists it; for a container that needs no GPU: pve-nvidia-hook disable VMID",
			"this host has no NVIDIA GPU and NVIDIA's kernel module is not loaded")
	}
}

// checkBuild finds what a kernel update leaves behind.
func checkBuild(h *hostFacts, _ *guestFacts, out *findings) {
	kernel := h.Kernel()
	if !h.idle() || kernel == "" {
		return
	}
	dkms, _ := filepath.Glob(h.Path("var/lib/dkms/nvidia*"))
	kernels := slices.Sorted(maps.Keys(h.built))
	fix := "install the driver on the host again, which builds its module for this kernel"
	if len(dkms) > 0 {
		fix = fmt.Sprintf("apt-get install dkms %s; dkms autoinstall; modprobe nvidia", headers(kernel))
	}
	switch {
	case h.built[kernel] != "":
		out.add(OK, "", "NVIDIA's kernel module is built for the running kernel %s", kernel)
	case len(kernels) > 0:
		out.add(Problem, fix, "NVIDIA's kernel module is built for kernel %s only, not for %s, which is running", strings.Join(kernels, ", "), kernel)
	case len(dkms) > 0:
		out.add(Problem, fix, "DKMS has the source of NVIDIA's kernel module, but it is built for no kernel")
	case len(h.userSpaces()) > 0:
		out.add(Problem, fix, "the host has NVIDIA's libraries, but its kernel module is built for no kernel")
	}
}

// headers names the package with what DKMS needs to build for a kernel.
func headers(kernel string) string {
	if strings.HasSuffix(kernel, "-pve") {
		return "proxmox-headers-" + kernel
	}
	return "linux-headers-" + kernel
}

// rejected is what the kernel says of a module that it does not load for its
// signature (kernel/module/signing.c and security/lockdown of Linux).
var rejected = lazy.Regexp(`(?i)loading of (unsigned module|module with .*) is rejected|lockdown: .*unsigned module loading is restricted`)

func checkSigned(h *hostFacts, _ *guestFacts, out *findings) {
	if !h.idle() {
		return
	}
	const fix = "have the module signed and its key trusted: mokutil --import /var/lib/dkms/mok.pub, then reboot and confirm the key; or turn Secure Boot off in the firmware"
	why := h.SignedOnly()
	file := h.built[h.Kernel()]
	refused := slices.IndexFunc(h.log, rejected().MatchString)
	signed, known := host.Signed(file)
	switch {
	case refused >= 0:
		out.add(Problem, fix, "the kernel refuses a module because of its signature: %s", h.log[refused])
	case why != "" && file != "" && known && !signed:
		out.add(Problem, fix, "%s, so the kernel loads signed modules only, and NVIDIA's has no signature", why)
	case why != "":
		out.add(Unknown, fix, "%s, so the kernel loads signed modules only; whether it trusts the signature of NVIDIA's is not known", why)
	}
	out.orOK("the kernel loads modules without a signature")
}

// unsupported is what the driver says of a GPU that an older branch supports, or a
// newer one (texts of its module in 470.256.02 and 535.261.03).
var unsupported = lazy.Regexp(`NVRM: .*(NVIDIA [0-9]+\.xx Legacy|not supported by the NVRM: NVIDIA .* driver release)`)

// checkBranch compares GPUs whose last branch is known with the driver.
func checkBranch(h *hostFacts, _ *guestFacts, out *findings) {
	installed := slices.SortedFunc(maps.Keys(h.userSpaces()), version.Compare)
	newest, later := h.module, version.Driver("") // what is loaded, and what the next boot brings
	if n := len(installed); n > 0 && newest == "" {
		newest = installed[n-1]
	} else if n == 1 && newest != installed[0] {
		later = installed[0]
	}
	for _, c := range h.kernel.Cards {
		architecture, last := c.LastBranch()
		if last == 0 || c.Driver == "vfio-pci" {
			continue
		}
		fix := fmt.Sprintf("install a driver of branch %d on the host", last)
		switch {
		case branch(newest) > last && c.Model == "":
			out.add(Problem, fix, "driver %s does not support %s (%s): the newest branch for it is %d", newest, c, architecture, last)
		case branch(later) > last:
			out.add(Warning, fix+" before the next reboot", "driver %s, which is installed but not loaded yet, does not support %s (%s): the newest branch for it is %d", later, c, architecture, last)
		default:
			out.add(OK, "", "the newest driver branch for %s (%s) is %d", c, architecture, last)
		}
	}
	// The log also has messages of a driver that was loaded before this one.
	if len(out.list) > 0 || !slices.ContainsFunc(h.kernel.Cards, func(c host.Card) bool { return c.Model == "" && c.Driver != "vfio-pci" }) {
		return
	}
	for _, line := range h.log {
		if unsupported().MatchString(line) {
			out.add(Problem, "install a driver on the host whose README lists this GPU", "the driver does not support a GPU of this host: %s", line)
		}
	}
}

// branch is the first number of a version, 0 for "".
func branch(v version.Driver) int {
	first, _, _ := strings.Cut(string(v), ".")
	n, _ := strconv.Atoi(first)
	return n
}

// checkUserSpace finds the host that was upgraded and not rebooted, and the one
// that has two drivers.
func checkUserSpace(h *hostFacts, _ *guestFacts, out *findings) {
	spaces := h.userSpaces()
	versions := slices.Sorted(maps.Keys(spaces))
	switch {
	case len(versions) == 0:
		return
	case len(versions) > 1:
		var files []string
		for _, v := range versions {
			files = append(files, spaces[v])
		}
		out.add(Warning, "remove the driver that is not the kernel module's: apt-get purge its packages, or nvidia-uninstall for one from a run file",
			"the host has libraries of %d driver versions: %s; a program may load the wrong one", len(versions), strings.Join(files, ", "))
	case h.module != "" && versions[0] != h.module:
		out.add(Warning, "reboot", "the host's own libraries are of driver %s, its loaded kernel module is %s: the host was upgraded and not rebooted, and after the reboot the containers need %[1]s", versions[0], h.module)
	}
	out.orOK("the host's own libraries are of driver %s", versions[0])
}
