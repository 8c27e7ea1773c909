package pve

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Device is a device node of this host.
type Device struct {
	Path string // /dev/nvidia0
	Mode uint32 // permission bits
}

// entry is the value of the devN that brings the node into a container.
// Proxmox's default mode is 0660 for root alone, which is of no use to anyone
// else in the container. The capability nodes keep the host's mode: the one for
// MIG configuration is root's alone, and 0666 would hand it to every user.
func (d Device) entry() string {
	mode := uint32(0o666)
	if strings.HasPrefix(d.Path, "/dev/nvidia-caps/") && d.Mode != 0 {
		mode = d.Mode & 0o777
	}
	return fmt.Sprintf("%s,mode=%04o", d.Path, mode)
}

// enabledLine matches what entry writes.
var enabledLine = lazy.Regexp(`^/dev/nvidia([0-9]+|ctl|-uvm|-uvm-tools|-modeset),mode=0666$|^/dev/nvidia-caps/nvidia-cap[0-9]+,mode=0[0-7]{3}$`)

var gpuNode = lazy.Regexp(`^/dev/nvidia([0-9]+)$`)

const devicesHint = "make the device nodes by: pve-nvidia-hook devices"

// SelectDevices picks the nodes that a container gets: the common ones, the
// chosen GPUs ("all", "none" or numbers such as "0,1"), and what stands in
// nvidia-caps. It says which useful ones are missing.
func SelectDevices(present []Device, gpus string) (chosen []Device, missing []string, err error) {
	gpus = strings.TrimSpace(gpus)
	if gpus == "none" {
		return nil, nil, nil
	}
	there := map[string]Device{}
	var all []int
	for _, d := range present {
		there[d.Path] = d
		if m := gpuNode().FindStringSubmatch(d.Path); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	numbers, err := parseGPUs(gpus, all)
	if err != nil {
		return nil, nil, err
	}
	ctl, ok := there["/dev/nvidiactl"]
	if !ok || len(all) == 0 {
		return nil, nil, hint.Errorf(devicesHint+"; or take --gpus none to set the hookscript only",
			"this host has no device nodes of an NVIDIA GPU (/dev/nvidiactl, /dev/nvidia0)")
	}
	chosen = append(chosen, ctl)
	for _, n := range numbers {
		d, ok := there[fmt.Sprintf("/dev/nvidia%d", n)]
		if !ok {
			return nil, nil, hint.Errorf("this host has "+words(all), "there is no GPU %d: /dev/nvidia%d is missing", n, n)
		}
		chosen = append(chosen, d)
	}
	for _, name := range []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"} {
		if d, ok := there[name]; ok {
			chosen = append(chosen, d)
		} else {
			missing = append(missing, name)
		}
	}
	if d, ok := there["/dev/nvidia-modeset"]; ok {
		chosen = append(chosen, d)
	}
	var caps []Device
	for name, d := range there {
		if path.Dir(name) == "/dev/nvidia-caps" {
			caps = append(caps, d)
		}
	}
	slices.SortFunc(caps, func(a, b Device) int {
		return cmp.Or(cmp.Compare(len(a.Path), len(b.Path)), cmp.Compare(a.Path, b.Path))
	})
	return append(chosen, caps...), missing, nil
}

// CheckGPUs says whether words are a choice of GPUs, whichever the host has.
func CheckGPUs(gpus string) error {
	if strings.TrimSpace(gpus) == "none" {
		return nil
	}
	_, err := parseGPUs(strings.TrimSpace(gpus), nil)
	return err
}

func parseGPUs(gpus string, all []int) ([]int, error) {
	if gpus == "" || gpus == "all" {
		return all, nil
	}
	var numbers []int
	for item := range strings.SplitSeq(gpus, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(item))
		if err != nil || n < 0 || n > 254 {
			return nil, hint.Errorf("take all, none or numbers such as 0,1", "%q is no choice of GPUs", gpus)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// words is such as "GPU 0", "GPUs 0 and 1", "GPUs 0, 1 and 2".
func words(numbers []int) string {
	text := make([]string, len(numbers))
	for i, n := range numbers {
		text[i] = strconv.Itoa(n)
	}
	if len(text) == 1 {
		return "GPU " + text[0]
	}
	return "GPUs " + list(text)
}

// list joins names as a sentence does.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// NVIDIA reports whether the container has this program's hookscript or a
// device of the driver, by an entry or a mount, now or at its next start.
func (c Conf) NVIDIA() bool {
	for _, s := range []Section{c.Section, c.Next()} {
		if Ours(s.Hookscript) {
			return true
		}
		for _, value := range s.Dev {
			if strings.HasPrefix(devPath(value), "/dev/nvidia") {
				return true
			}
		}
		for _, kv := range s.LXC {
			if kv.Key == "lxc.mount.entry" && strings.HasPrefix(kv.Value, "/dev/nvidia") {
				return true
			}
		}
	}
	return false
}

// mountedBy returns the raw mount line that brings a node into the container
// already, itself or with its folder, or "".
func mountedBy(raw []KV, node string) string {
	for _, kv := range raw {
		if kv.Key != "lxc.mount.entry" {
			continue
		}
		fields := strings.Fields(kv.Value)
		if len(fields) < 2 {
			continue
		}
		target := path.Clean("/" + fields[1])
		if target == node || target != "/" && strings.HasPrefix(node, target+"/") {
			return kv.Key + ": " + kv.Value
		}
	}
	return ""
}
