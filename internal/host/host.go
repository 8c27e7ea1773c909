// Package host reads what this node is: the NVIDIA kernel module that is
// loaded, the processor, the device nodes.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Host is a node whose facts are read below Root; "" is the running system.
type Host struct{ Root string }

// Path returns where a file of the node is found.
func (h Host) Path(name string) string { return below(h.Root, name) }

// VGPU says that the driver of this host is one that containers cannot use: the vGPU
// host driver has a kernel module of its own.
func (h Host) VGPU() error {
	if _, err := os.Stat(h.Path("sys/module/nvidia_vgpu_vfio")); err != nil {
		return nil
	}
	return hint.Errorf("install the ordinary driver on the host, and reboot",
		"this host has the vGPU host driver (vgpu-kvm), which is for virtual machines: containers cannot use it")
}

// moduleVersion finds the version in line 1 of /proc/driver/nvidia/version, of
// the proprietary and of the open kernel module alike:
//
//	NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Apr 29 17:32:45 UTC 2026
//	NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.142  Release Build  ...
//
// Line 2 names a compiler, with numbers that look like versions, and is never read.
func moduleVersion(line string) (version.Driver, bool) {
	const begin, name = "NVRM version: NVIDIA UNIX ", "Kernel Module"
	at := strings.LastIndex(line, name)
	if !strings.HasPrefix(line, begin) || at < len(begin) {
		return "", false
	}
	words := strings.Fields(line[at+len(name):])
	if len(words) > 2 && words[0] == "for" {
		words = words[2:]
	}
	if len(words) == 0 {
		return "", false
	}
	v, err := version.Parse(words[0])
	return v, err == nil
}

// Module returns the version of the loaded NVIDIA kernel module, or "" when
// none is loaded. An error means that a module is loaded whose version cannot
// be read.
func (h Host) Module() (version.Driver, error) {
	proc := h.Path("proc/driver/nvidia/version")
	line, err := firstLine(proc)
	if err == nil {
		v, ok := moduleVersion(line)
		if !ok {
			return "", fmt.Errorf("read the kernel module's version: %s has the unknown form %q", proc, line)
		}
		return v, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the kernel module's version: %w", err)
	}
	sys := h.Path("sys/module/nvidia/version")
	line, err = firstLine(sys)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the kernel module's version: %w", err)
	}
	v, err := version.Parse(line)
	if err != nil {
		return "", fmt.Errorf("read the kernel module's version: %s: %w", sys, err)
	}
	return v, nil
}

// firstLine returns the first line of a small file without its newline.
func firstLine(name string) (string, error) {
	text, err := ReadSmall(name)
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line), err
}

// Arch returns the processor as NVIDIA names it in its files, x86_64 or
// aarch64, or an error for any other.
func Arch() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask the kernel for the processor: %w", err)
	}
	arch := unix.ByteSliceToString(u.Machine[:])
	if arch != "x86_64" && arch != "aarch64" {
		return "", fmt.Errorf("processor %s: NVIDIA has run files for x86_64 and aarch64 only", arch)
	}
	return arch, nil
}
