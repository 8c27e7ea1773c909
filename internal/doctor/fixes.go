package doctor

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// The commands that fixes of several checks are made of.

// restart is the command that starts a container anew, with Proxmox VE or LXC alone.
func (h *hostFacts) restart(f *guestFacts) string {
	if h.noPVE {
		return fmt.Sprintf("lxc-stop -P %s -n %d && lxc-start -P %[1]s -n %[2]d", f.settings.Paths.LXC, f.vmid)
	}
	return fmt.Sprintf("pct reboot %d", f.vmid)
}

// exec begins a command in a container.
func (h *hostFacts) exec(f *guestFacts) string {
	if h.noPVE {
		return fmt.Sprintf("lxc-attach -P %s -n %d --", f.settings.Paths.LXC, f.vmid)
	}
	return fmt.Sprintf("pct exec %d --", f.vmid)
}

// giveGPUs is how a container gets its GPUs. Without Proxmox VE no command does it, so a
// person edits its file, also for the device rules.
func (h *hostFacts) giveGPUs(f *guestFacts) string {
	if !h.noPVE {
		return fmt.Sprintf("pve-nvidia-hook enable %d --gpus %s", f.vmid, f.gpus())
	}
	return fmt.Sprintf("for each of /dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm a line such as 'lxc.mount.entry = /dev/nvidiactl dev/nvidiactl none bind,create=file' in %s, and 'lxc.cgroup2.devices.allow = c MAJOR:* rwm' for the majors of /proc/devices", f.lxcConfig())
}

// lxcConfig is the container's file where LXC has it.
func (f guestFacts) lxcConfig() string {
	return filepath.Join(f.settings.Paths.LXC, strconv.Itoa(f.vmid), "config")
}

// apply is the command for a run on the container. With again it installs the driver
// again, even if the run finds nothing wrong.
func (g *guestFacts) apply(again bool) string {
	if again {
		return fmt.Sprintf("pve-nvidia-hook apply --force %d", g.vmid)
	}
	return fmt.Sprintf("pve-nvidia-hook apply %d", g.vmid)
}
