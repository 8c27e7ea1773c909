package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// smiTimeout is long: the first call after a boot without persistence mode
// initialises every GPU, which takes seconds each.
const smiTimeout = 90 * time.Second

// SMI asks nvidia-smi in the container for the driver's version and compares it
// with what is wanted. The error explains each known failure.
func SMI(ctx context.Context, c *lxc.Container, want version.Driver) error {
	return SMIOf(ctx, c, "nvidia-smi", want)
}

// SMIOf is SMI for another nvidia-smi than the one in PATH.
func SMIOf(ctx context.Context, c *lxc.Container, program string, want version.Driver) error {
	result, err := query(ctx, c, program, "driver_version")
	switch {
	case errors.Is(err, lxc.ErrDeadline):
		return hint.Errorf(cmp.Or(hint.Of(err), "look for Xid errors in the host's kernel log (dmesg | grep -i xid); a GPU that hangs needs a reset or a reboot of the host"),
			"nvidia-smi did not answer within %v and was ended", smiTimeout)
	case err != nil:
		return fmt.Errorf("run nvidia-smi in the container: %w", err)
	}
	if err := judge(result.Code, string(result.Stdout), want); err != nil {
		if noDeviceCodes[result.Code] && !AnyGPU(c) {
			return NoNode(true)
		}
		return err
	}
	return nil
}

// noDeviceCodes are the exit statuses that nvidia-smi may end with where no node
// of a GPU is: 9 without any node; 255 where it could make /dev/nvidiactl, as in
// a privileged container, but not open it; 6 where it could open that.
var noDeviceCodes = map[int]bool{noDevice: true, 9: true, 255: true}

// gpuNode matches the node of one GPU. /dev/nvidiactl alone is none: nvidia-smi
// itself makes it.
var gpuNode = lazy.Regexp(`^nvidia[0-9]+$`)

// AnyGPU tells whether the container has the node of a GPU, and true where that
// cannot be seen.
func AnyGPU(c *lxc.Container) bool {
	names, err := c.ReadDir("/dev", 10000)
	return err != nil || slices.ContainsFunc(names, gpuNode().MatchString)
}

// NoNode is the error of a container that no GPU reaches. asked tells whether its
// configuration asks for one.
func NoNode(asked bool) error {
	if !asked {
		return hint.Errorf("pve-nvidia-hook enable VMID --gpus all, then restart it",
			"the container has no GPU: it was enabled without --gpus")
	}
	return hint.Errorf("see that its configuration passes one (pve-nvidia-hook enable VMID --gpus all) and that the host has the node (ls /dev/nvidia0), then restart it",
		"the container has no GPU: there is no /dev/nvidia0 or other GPU node in it")
}

// Capability asks nvidia-smi in the container for the lowest compute capability
// of its GPUs, such as "6.1". It is "" when nvidia-smi does not say: older ones
// do not know the query.
func Capability(ctx context.Context, c *lxc.Container) (string, error) {
	result, err := query(ctx, c, "nvidia-smi", "compute_cap")
	if err != nil {
		return "", fmt.Errorf("ask nvidia-smi in the container for the compute capability: %w", err)
	}
	return lowest(result.Code, string(result.Stdout)), nil
}

var capability = lazy.Regexp(`^[1-9][0-9]?\.[0-9]$`)

// lowest reads the answer, a line for each GPU. Lines of another form, such as
// "[N/A]", tell nothing.
func lowest(code int, stdout string) string {
	if code != 0 && code != corruptInfoROM {
		return ""
	}
	least := ""
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		// Of one form with driver versions: numbers with a dot between them.
		if capability().MatchString(line) && (least == "" || version.Compare(version.Driver(line), version.Driver(least)) < 0) {
			least = line
		}
	}
	return least
}

// query asks nvidia-smi for one property of each GPU.
func query(ctx context.Context, c *lxc.Container, program, property string) (lxc.Result, error) {
	return c.Run(ctx, lxc.Cmd{
		Args:    []string{program, "--query-gpu=" + property, "--format=csv,noheader"},
		Timeout: smiTimeout,
		Keep:    16 << 10,
		Reap:    true,
	})
}

// judge says what an answer of nvidia-smi means. It prints its failures to
// stdout and tells them apart by exit status, which is NVML's error number.
func judge(code int, stdout string, want version.Driver) error {
	var lines []string
	for line := range strings.Lines(stdout) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "WARNING:") {
			lines = append(lines, line)
		}
	}
	if text := strings.Join(lines, " "); strings.Contains(text, "No devices were found") || strings.Contains(text, "No supported GPUs were found") {
		// With exit status 6, 255, or even 0.
		return hint.Errorf(smiFailures[noDevice].hint, "nvidia-smi failed, %s: %s", smiFailures[noDevice].means, firstLine(stdout))
	}
	// A worn infoROM is reported beside the answer; the driver works all the same.
	if code != 0 && (code != corruptInfoROM || len(lines) == 0) {
		return smiFailed(code, stdout)
	}
	if len(lines) == 0 {
		return hint.Errorf("pass a GPU into the container (pve-nvidia-hook enable VMID --gpus all) and restart it",
			"nvidia-smi names no GPU")
	}
	for _, line := range lines {
		if line != string(want) {
			return hint.Errorf("another copy of nvidia-smi or libnvidia-ml may come first in the container's search path (which -a nvidia-smi; ldconfig -p | grep nvidia-ml)",
				"nvidia-smi says version %s instead of %s", say.Clean(line, 40), want)
		}
	}
	return nil
}

func smiFailed(code int, stdout string) error {
	text := firstLine(stdout)
	f, known := smiFailures[code]
	if !known {
		f = smiFailure{"the reason is unknown", "run nvidia-smi in the container and see the host's kernel log"}
	}
	if text == "" {
		return hint.Errorf(f.hint, "nvidia-smi failed with exit status %d: %s", code, f.means)
	}
	return hint.Errorf(f.hint, "nvidia-smi failed with exit status %d, %s: %s", code, f.means, text)
}

// firstLine returns the line that names the failure; later ones give versions
// of two numbers that would only confuse.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return say.Clean(line, 200)
		}
	}
	return ""
}

// corruptInfoROM is NVML_ERROR_CORRUPTED_INFOROM.
const corruptInfoROM = 14

// noDevice is NVML_ERROR_NOT_FOUND, "a query to find an object was unsuccessful".
const noDevice = 6

type smiFailure struct{ means, hint string }

// smiFailures are NVML's error numbers as nvidia-smi's exit status gives them,
// and the two of a program that cannot be started.
var smiFailures = map[int]smiFailure{
	4: {"the container may not open the GPU's device nodes",
		"the nodes' mode or the container's device rules forbid it: pve-nvidia-hook doctor VMID says which, and prints the commands that fix it"},
	noDevice: {"the driver answers but finds no GPU",
		"no node of a GPU reaches the container (pve-nvidia-hook enable VMID --gpus all, then restart it), it is bound to vfio-pci for a virtual machine, or it failed to start: see dmesg | grep NVRM on the host"},
	9: {"it cannot talk to the kernel module",
		"see whether the host's module works: run nvidia-smi on the host, and look for NVRM in its kernel log"},
	12: {"libnvidia-ml.so.1 is not found",
		"run ldconfig in the container; if the library is there, look for a broken /etc/ld.so.conf"},
	8: {"a GPU lacks its external power",
		"look for power cables that are not attached to the card"},
	corruptInfoROM: {"a GPU's infoROM is corrupted",
		"see nvidia-smi on the host; the card may need service"},
	15: {"the GPU has fallen off the bus",
		"see the host's kernel log (dmesg | grep -i xid); the GPU needs a reset or the host a reboot"},
	10: {"the kernel has a problem with a GPU's interrupts", "see the host's kernel log, and try another slot or BIOS setting"},
	11: {"the kernel has a problem with a GPU's interrupts", "see the host's kernel log, and try another slot or BIOS setting"},
	13: {"libnvidia-ml.so.1 lacks a function that nvidia-smi needs",
		"another copy of libnvidia-ml is found first (ldconfig -p | grep nvidia-ml): remove it"},
	16: {"a GPU needs a reset", "reset it or reboot the host: nvidia-smi -q -d PERFORMANCE there tells more"},
	17: {"the operating system or cgroup blocks the GPU",
		"let Proxmox pass the nodes in with devN entries (pve-nvidia-hook enable VMID --gpus all) and restart the container"},
	18: {"user space and the host's kernel module are of different versions",
		"the module in the kernel is another one than /proc/driver/nvidia/version says, or another copy of libnvidia-ml is found first (ldconfig -p | grep nvidia-ml); a reboot of the host after a driver upgrade helps with the first"},
	255: {"NVML answers with an unknown error",
		"most often the container's device rules deny the GPU's nodes: restart the container, and use devN entries (pve-nvidia-hook enable VMID --gpus all) instead of hand-written cgroup lines"},
	126: {"it cannot be executed",
		"look for a noexec mount or a container of another architecture"},
	127: {"it is not found in the container",
		"the installation is not complete: see " + InstallerLog + " in the container"},
}
