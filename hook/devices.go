package hook

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// lookDevices says what is wrong with the GPUs of the container, as the host sees
// them: device nodes that cannot work in it, and other cards than enable has chosen.
// given is false when its configuration passes no GPU. No process is started.
func (w *work) lookDevices() (faults []string, given bool) {
	if w.Settings.GPUs == "none" {
		return nil, true
	}
	conf := w.guestConf()
	if conf == nil {
		return nil, true // not a container of Proxmox VE: nothing tells what it should have
	}
	faults = pve.CheckNodes(w.container, conf.Section, host.NodesPresent(w.HostRoot))
	if state, err := pve.ReadState(w.Settings.Paths.State, w.Settings.VMID); err == nil {
		faults = append(faults, state.Changes(*conf, host.ReadGPUs(w.HostRoot))...)
	}
	for i := range faults {
		faults[i] = say.Clean(faults[i], maxClaim)
	}
	return faults[:min(len(faults), maxDevices)], passesGPU(conf.Section)
}

// guestConf reads Proxmox VE's file of the container, once; nil when there is none.
func (w *work) guestConf() *pve.Conf {
	if w.conf == nil {
		conf, err := pve.ReadConf(w.HostRoot, w.Settings.VMID)
		if err != nil {
			return nil
		}
		w.conf = &conf
	}
	return w.conf
}

// maxDevices is how many faults of devices are told.
const maxDevices = 8

// passesGPU reports whether a configuration passes the node of a GPU.
func passesGPU(s pve.Section) bool {
	isGPU := func(path string) bool {
		rest, ok := strings.CutPrefix(filepath.Base(path), "nvidia")
		return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
	}
	for _, value := range s.Dev {
		path, _, _ := strings.Cut(value, ",")
		if isGPU(path) {
			return true
		}
	}
	return slices.ContainsFunc(s.LXC, func(kv pve.KV) bool {
		source, _, _ := strings.Cut(kv.Value, " ")
		return kv.Key == "lxc.mount.entry" && (isGPU(source) || source == "/dev")
	})
}

// devicesHint is what to do about a container in which the GPU does not work.
func devicesHint(vmid int) string { return fmt.Sprintf("see pve-nvidia-hook doctor %d", vmid) }
