package host

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// inMemory is a folder for files that are written anew for each input: on a
// disk a tenth of the inputs would be tried.
func inMemory(f *testing.F) string {
	dir, err := os.MkdirTemp("/dev/shm", "fuzz")
	if err != nil {
		return f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// From what the kernel and the driver say of their devices come the nodes that
// root makes: of the driver's names alone, with numbers that it named.
func FuzzNodeFacts(f *testing.F) {
	const devices = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n235 nvidia-caps\n511 nvidia-uvm\n\nBlock devices:\n240 nvidia-uvm\n"
	f.Add(devices, "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 44\nDeviceFileMode: 438\n", "Model: \t NVIDIA A10\nDevice Minor: \t 0\n",
		"DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n", "DeviceFileMinor: 1\nDeviceFileMode: 292\n", uint16(507), uint16(0))
	f.Add("511 nvidia-uvm", "DeviceFileMode: 4294967295\nDeviceFileUID: -1\n", "Device Minor: 255\nDevice Minor: 254\n", "DeviceFileMinor: 1048576\nDeviceFileMode: 0\n", "", uint16(1), uint16(2))
	f.Add("4096 nvidia-uvm\n-1 nvidia-caps\n0x10 nvidia-caps\n5 nvidia-uvm/../x\n", "DeviceFileMode: 8191", "Device Minor: 007", "DeviceFileMinor: 1048575\nDeviceFileMode: 4095\nDeviceFileModify: 0", "DeviceFileMinor: 2\nDeviceFileMode: 292\n", uint16(0), uint16(253))
	root := inMemory(f)
	f.Fuzz(func(t *testing.T, devices, params, gpu, cap1, cap2 string, major, minor uint16) {
		for name, text := range map[string]string{
			"proc/devices":              devices,
			"proc/driver/nvidia/params": params,
			"proc/driver/nvidia/gpus/0000:01:00.0/information": gpu,
			"proc/driver/nvidia/capabilities/mig/config":       cap1,
			"proc/driver/nvidia/capabilities/mig/monitor":      cap2,
		} {
			put(t, root, name, text)
		}
		facts := ReadFacts(root)
		require.LessOrEqual(t, len(facts.caps), 2)
		paths := map[string]bool{}
		for _, n := range facts.Nodes() {
			name, ok := strings.CutPrefix(n.Path, "/dev/")
			require.True(t, ok && nodeName().MatchString(name) && filepath.Clean(n.Path) == n.Path, "%q", n.Path)
			require.False(t, paths[n.Path], "%s is made twice, and differs each time", n.Path)
			paths[n.Path] = true
			require.True(t, n.IsChar && n.Mode <= 0o777 && n.Major < 1<<12 && n.Minor < 1<<20, "%+v", n)
			if n.Major != 195 {
				require.Contains(t, devices, fmt.Sprint(n.Major))
			}
		}

		// The kernel's table as it writes it, with others' lines before.
		major, minor = major%4096, minor%254
		if !strings.Contains(devices, "Block devices:") {
			devices := strings.ReplaceAll(devices, "nvidia-uvm", "other") // the kernel gives a name one major
			put(t, root, "proc/devices", fmt.Sprintf("%s\n%3d nvidia-uvm\n\nBlock devices:\n%3d nvidia-uvm\n", devices, major, (major+1)%4096))
			put(t, root, "proc/driver/nvidia/gpus/0000:01:00.0/information", fmt.Sprintf("Model: \t\t NVIDIA A10\nIRQ:   \t\t 1\nDevice Minor: \t %d\n", minor))
			put(t, root, "proc/driver/nvidia/params", fmt.Sprintf("DeviceFileUID: %d\nDeviceFileMode: %d\n", minor, minor))
			nodes := ReadFacts(root).Nodes()
			want := Node{Path: "/dev/nvidia-uvm", Major: uint32(major), Mode: uint32(minor), UID: uint32(minor), IsChar: true}
			if len(devices) < math.MaxUint16/2 { // of more not all is read
				require.True(t, slices.Contains(nodes, want), "%+v", nodes)
			}
			want.Path, want.Major, want.Minor = fmt.Sprintf("/dev/nvidia%d", minor), 195, uint32(minor)
			require.True(t, slices.Contains(nodes, want), "%+v", nodes)
		}
	})
}

// The version of the kernel module is the one that its line names, or an error.
func FuzzModule(f *testing.F) {
	f.Add("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Apr 29 17:32:45 UTC 2026\n", uint16(580), uint16(159), uint8(4))
	f.Add("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.142  Release Build\n", uint16(580), uint16(142), uint8(100))
	f.Add("580.142\nGCC version:  gcc version 13.3.0\n", uint16(34), uint16(1), uint8(1))
	root := inMemory(f)
	f.Fuzz(func(t *testing.T, text string, major, minor uint16, patch uint8) {
		module := func(proc, sys string) (version.Driver, error) {
			for name, text := range map[string]string{"proc/driver/nvidia/version": proc, "sys/module/nvidia/version": sys} {
				put(t, root, name, text)
				if text == "" {
					require.NoError(t, os.Remove(filepath.Join(root, name)))
				}
			}
			return Host{Root: root}.Module()
		}
		for _, files := range [][2]string{{text, ""}, {"", text}, {text, text}} {
			v, err := module(files[0], files[1])
			if err != nil {
				require.Empty(t, v)
				require.Less(t, len(err.Error()), 5*4096) // a line is read up to 4096 bytes, and quoted
			} else if v != "" {
				parsed, err := version.Parse(string(v))
				require.NoError(t, err)
				require.Equal(t, parsed, v)
				first, _, _ := strings.Cut(text, "\n")
				require.Contains(t, first, string(v), "only the first line counts")
			}
		}
		want := fmt.Sprintf("%d.%d", 10+major%9990, minor%1000)
		if patch < 100 {
			want += fmt.Sprintf(".%02d", patch)
		}
		for _, line := range []string{
			"NVRM version: NVIDIA UNIX x86_64 Kernel Module  %s  Wed Apr 29 17:32:45 UTC 2026\n",
			"NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  %s  Release Build  (dvs-builder@U22-I3-AD05-51-5)\n",
		} {
			v, err := module(fmt.Sprintf(line, want)+text, text)
			require.NoError(t, err)
			require.Equal(t, want, string(v))
		}
		v, err := module("", want+"\n"+text)
		require.NoError(t, err)
		require.Equal(t, want, string(v))
	})
}
