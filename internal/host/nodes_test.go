package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// machine is a root folder with the facts of a node that has two GPUs and a loaded driver.
type machine struct {
	*testing.T
	root  string
	calls []string
	run   Runner
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, root: t.TempDir()}
	if err := unix.Mknod(filepath.Join(m.root, "probe"), unix.S_IFCHR, 0); err != nil {
		t.Skip("device nodes need root")
	}
	m.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Thu\n")
	m.file("proc/driver/nvidia/params", "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n")
	m.gpu("0000:01:00.0", 0)
	m.gpu("0000:41:00.0", 1)
	m.devices(511)
	m.file("proc/driver/nvidia/capabilities/mig/config", "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n")
	m.file("proc/driver/nvidia/capabilities/mig/monitor", "DeviceFileMinor: 2\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
	m.file("sys/module/nvidia_modeset/refcnt", "0\n")
	require.NoError(t, os.MkdirAll(filepath.Join(m.root, "dev"), 0o755))
	m.run = func(_ context.Context, name string, args ...string) error {
		m.calls = append(m.calls, strings.Join(append([]string{name}, args...), " "))
		return exec.ErrNotFound
	}
	return m
}

func (m *machine) file(name, text string) {
	m.Helper()
	file := filepath.Join(m.root, name)
	require.NoError(m, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(m, os.WriteFile(file, []byte(text), 0o644))
}

func (m *machine) gpu(bus string, minor int) {
	m.file("proc/driver/nvidia/gpus/"+bus+"/information", fmt.Sprintf("Model: \t\t NVIDIA A10\nIRQ:   \t\t 42\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Excluded:\t No\n", bus, minor))
	m.file("sys/bus/pci/devices/"+bus+"/vendor", "0x10de\n")
	m.file("sys/bus/pci/devices/"+bus+"/class", "0x030200\n")
}

func (m *machine) devices(uvm int) {
	text := "Character devices:\n  1 mem\n195 nvidia\n195 nvidia-modeset\n195 nvidiactl\n236 nvidia-caps\n"
	if uvm != 0 {
		text += fmt.Sprintf("%d nvidia-uvm\n", uvm)
	}
	m.file("proc/devices", text+"\nBlock devices:\n  7 loop\n259 nvidia-uvm\n")
}

func (m *machine) remove(names ...string) {
	for _, name := range names {
		require.NoError(m, os.RemoveAll(filepath.Join(m.root, name)))
	}
}

// make runs MakeNodes and returns what it said.
func (m *machine) make() (string, error) {
	var said []string
	err := MakeNodes(context.Background(), m.root, m.run, func(line string) { said = append(said, line) })
	return strings.Join(said, "\n"), err
}

// nodes shows what stands in dev.
func (m *machine) nodes() []string {
	var text []string
	for _, n := range NodesPresent(m.root) {
		text = append(text, fmt.Sprintf("%s %d:%d %04o %d:%d %v", n.Path, n.Major, n.Minor, n.Mode, n.UID, n.GID, n.IsChar))
	}
	return text
}

func TestNodesAreMadeFromWhatTheKernelSays(t *testing.T) {
	m := newMachine(t)
	_, err := m.make()
	require.NoError(t, err)
	want := []string{
		"/dev/nvidia0 195:0 0666 0:0 true",
		"/dev/nvidia1 195:1 0666 0:0 true",
		"/dev/nvidiactl 195:255 0666 0:0 true",
		"/dev/nvidia-uvm 511:0 0666 0:0 true",
		"/dev/nvidia-modeset 195:254 0666 0:0 true",
		"/dev/nvidia-uvm-tools 511:1 0666 0:0 true",
		"/dev/nvidia-caps/nvidia-cap1 236:1 0400 0:0 true",
		"/dev/nvidia-caps/nvidia-cap2 236:2 0444 0:0 true",
	}
	require.Equal(t, want, m.nodes())
	require.Equal(t, []string{"nvidia-modprobe"}, m.calls, "without nvidia-modprobe it is asked for once")

	said, err := m.make()
	require.NoError(t, err)
	require.Equal(t, "all 8 device nodes are in place", said)
	require.Equal(t, want, m.nodes())
	left, _ := filepath.Glob(filepath.Join(m.root, "dev/*.tmp"))
	require.Empty(t, left)
}

func TestStaleNumbersModesAndFilesArePutRight(t *testing.T) {
	m := newMachine(t)
	_, err := m.make()
	require.NoError(t, err)
	m.devices(508)
	require.NoError(t, os.Chmod(filepath.Join(m.root, "dev/nvidia0"), 0o600))
	m.remove("dev/nvidiactl")
	m.file("dev/nvidiactl", "")
	said, err := m.make()
	require.NoError(t, err)
	require.Equal(t, "made /dev/nvidiactl (195:255, mode 0666), in place of a file that was not a device\n"+
		"set mode 0666 and owner 0:0 of /dev/nvidia0\n"+
		"made /dev/nvidia-uvm (508:0, mode 0666) again, it had the old numbers 511:0\n"+
		"made /dev/nvidia-uvm-tools (508:1, mode 0666) again, it had the old numbers 511:1", said)
	require.Contains(t, m.nodes(), "/dev/nvidia-uvm 508:0 0666 0:0 true")
	require.Contains(t, m.nodes(), "/dev/nvidia0 195:0 0666 0:0 true")
}

func TestDriverOptionsForItsNodesHold(t *testing.T) {
	m := newMachine(t)
	m.file("proc/driver/nvidia/params", "ModifyDeviceFiles: 1\nDeviceFileUID: 5\nDeviceFileGID: 44\nDeviceFileMode: 432\n")
	_, err := m.make()
	require.NoError(t, err)
	require.Contains(t, m.nodes(), "/dev/nvidia0 195:0 0660 5:44 true")
	require.Contains(t, m.nodes(), "/dev/nvidia-caps/nvidia-cap1 236:1 0400 0:0 true")

	m.file("proc/driver/nvidia/params", "ModifyDeviceFiles: 0\n")
	m.remove("dev/nvidia0")
	said, err := m.make()
	require.NoError(t, err)
	require.Contains(t, said, "left /dev/nvidia0 alone, the driver's option ModifyDeviceFiles is 0")
	require.NotContains(t, strings.Join(m.nodes(), "\n"), "/dev/nvidia0 ")
}

func TestNvidiaModprobeGoesFirstAndIsCheckedAfterwards(t *testing.T) {
	m := newMachine(t)
	m.run = func(_ context.Context, name string, args ...string) error {
		m.calls = append(m.calls, strings.Join(append([]string{name}, args...), " "))
		if len(args) == 3 {
			return errors.New("nvidia-modprobe -u -c 0: exit status 1")
		}
		return nil // says that all is well and makes nothing
	}
	said, err := m.make()
	require.NoError(t, err)
	require.Equal(t, []string{"nvidia-modprobe", "nvidia-modprobe -c 0", "nvidia-modprobe -c 1", "nvidia-modprobe -u -c 0", "nvidia-modprobe -m"}, m.calls)
	require.Contains(t, said, "warning: nvidia-modprobe -u -c 0: exit status 1")
	require.Len(t, m.nodes(), 8)
}

func TestUVMModuleIsLoadedWhenItIsMissing(t *testing.T) {
	m := newMachine(t)
	m.devices(0)
	m.run = func(_ context.Context, name string, args ...string) error {
		if name == "modprobe" {
			require.Equal(t, []string{"nvidia-uvm"}, args)
			m.devices(509)
			return nil
		}
		return exec.ErrNotFound
	}
	_, err := m.make()
	require.NoError(t, err)
	require.Contains(t, m.nodes(), "/dev/nvidia-uvm 509:0 0666 0:0 true")

	m.devices(0)
	m.run = func(context.Context, string, ...string) error { return exec.ErrNotFound }
	said, err := m.make()
	require.ErrorContains(t, err, "nvidia-uvm is not loaded")
	require.NotContains(t, said, "in place", "it does not say that all is well")

	m.devices(0)
	m.run = func(_ context.Context, name string, _ ...string) error {
		if name == "modprobe" {
			return errors.New("modprobe nvidia-uvm: exit status 1: FATAL: Module nvidia-uvm not found")
		}
		return exec.ErrNotFound
	}
	_, err = m.make()
	require.ErrorContains(t, err, "nvidia-uvm is not loaded, so there is no /dev/nvidia-uvm and no CUDA: modprobe nvidia-uvm: exit status 1")
	require.NotContains(t, hint.Of(err), "modprobe", "what has just failed is not advised")
}

func TestHostWithoutUsableGPUIsNoError(t *testing.T) {
	m := newMachine(t)
	m.remove("proc/driver", "sys")
	said, err := m.make()
	require.NoError(t, err)
	require.Equal(t, "this host has no NVIDIA GPU, there is nothing to do", said)

	m.file("sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de\n") // its sound device
	m.file("sys/bus/pci/devices/0000:01:00.1/class", "0x040300\n")
	said, err = m.make()
	require.NoError(t, err)
	require.Equal(t, "this host has no NVIDIA GPU, there is nothing to do", said)

	m.gpu("0000:01:00.0", 0)
	m.remove("proc/driver")
	require.NoError(t, os.Symlink("../../../bus/pci/drivers/vfio-pci", filepath.Join(m.root, "sys/bus/pci/devices/0000:01:00.0/driver")))
	said, err = m.make()
	require.NoError(t, err)
	require.Contains(t, said, "vfio-pci")
	require.Empty(t, m.nodes())
	require.Empty(t, m.calls, "nothing is loaded on a host without a GPU of its own")
}

func TestGPUWithoutModuleIsNamed(t *testing.T) {
	m := newMachine(t)
	m.remove("proc/driver")
	_, err := m.make()
	require.EqualError(t, err, "the host has an NVIDIA GPU, but its kernel module nvidia is not loaded")
	require.Equal(t, []string{"nvidia-modprobe", "modprobe nvidia"}, m.calls)

	m.calls, m.run = nil, func(_ context.Context, name string, args ...string) error {
		m.calls = append(m.calls, strings.Join(append([]string{name}, args...), " "))
		return nil
	}
	_, err = m.make()
	require.Error(t, err)
	require.NotContains(t, m.calls, "modprobe nvidia", "nvidia-modprobe has tried")
}

func TestModuleIsLoadedWhereNvidiaModprobeIsMissing(t *testing.T) {
	m := newMachine(t)
	m.remove("proc/driver/nvidia/version")
	m.run = func(ctx context.Context, name string, args ...string) error {
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		if name != "modprobe" {
			return exec.ErrNotFound
		}
		require.Equal(t, []string{"nvidia"}, args)
		m.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Thu\n")
		return nil
	}
	_, err := m.make()
	require.NoError(t, err)
	require.Len(t, m.nodes(), 8)

	m.remove("proc/driver/nvidia/version")
	m.run = func(_ context.Context, name string, args ...string) error {
		if name != "modprobe" {
			return exec.ErrNotFound
		}
		return errors.New("modprobe nvidia: exit status 1: FATAL: Module nvidia not found")
	}
	said, err := m.make()
	require.ErrorContains(t, err, "its kernel module nvidia cannot be loaded: modprobe nvidia: exit status 1: FATAL: Module nvidia not found")
	require.Empty(t, said)
	require.NotContains(t, hint.Of(err), "modprobe", "what has just failed is not advised")
}

func TestAnotherRootRunsNothingHere(t *testing.T) {
	m := newMachine(t)
	bin := t.TempDir()
	mark := filepath.Join(bin, "ran")
	require.NoError(t, os.WriteFile(filepath.Join(bin, "nvidia-modprobe"), []byte("#!/bin/sh\n: >"+mark+"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	m.run = nil
	_, err := m.make()
	require.NoError(t, err)
	require.NoFileExists(t, mark)
}

func TestOnlyDevicesOfTheDriverArePresent(t *testing.T) {
	m := newMachine(t)
	m.file("dev/nvidia0", "")
	m.file("dev/nvidia-fs0", "")
	m.file("dev/nvidiactl.12.tmp", "")
	m.file("dev/nvidia-caps/other", "")
	require.Equal(t, []string{"/dev/nvidia0 0:0 0644 0:0 false"}, m.nodes())
	require.Empty(t, NodePaths(NodesPresent(m.root)))
}

func TestRunSaysWhatAProgramSaid(t *testing.T) {
	err := Run(context.Background(), "sh", "-c", "echo no such device >&2; exit 3")
	require.EqualError(t, err, "sh -c echo no such device >&2; exit 3: exit status 3: no such device")
	require.ErrorIs(t, Run(context.Background(), "no-such-program"), exec.ErrNotFound)
}
