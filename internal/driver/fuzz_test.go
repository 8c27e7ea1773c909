package driver

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Whatever stands in dpkg's status file: an installed driver package is not
// overlooked, and only names come out that are safe in a command.
func FuzzDpkgStatus(f *testing.F) {
	f.Add([]byte("Package: libcuda1\nStatus: deinstall ok config-files\n\nPackage: libnvidia-compute-570\nStatus: install ok installed\n\nPackage: nvidia-utils-570-server\nStatus: hold ok unpacked\n"), "hold ok half-installed", uint8(0), uint16(2))
	f.Add([]byte("Package: libnvidia-compute-5; curl x | sh\nStatus: install ok installed\n\nPackage: nvidia-utils-5\x1b[2J\nStatus: install ok installed\n"), "install ok installed", uint8(3), uint16(0))
	f.Add([]byte("Package: libcuda1\nArchitecture: i386\nStatus: install ok installed\n\nPackage: libcuda1\nStatus: install ok installed\n"), "install  ok\tunpacked", uint8(1), uint16(9))
	f.Add([]byte("Package: nvidia-utils-5"+strings.Repeat("a", 300)+"\nStatus: install ok installed\n"), "purge ok not-installed", uint8(2), uint16(1))
	f.Add([]byte("Description: "+strings.Repeat("x", 64<<10)+"\n "+strings.Repeat("Package: x\n", 300)), "deinstall ok config-files", uint8(4), uint16(100))
	some := []string{"libcuda1", "libnvidia-compute-570", "nvidia-utils-570-server", "nvidia-driver-libs", "cuda-drivers-570", "nvidia-open"}
	f.Fuzz(func(t *testing.T, text []byte, status string, which uint8, at uint16) {
		found, _ := dpkgDriverPackages(strings.NewReader(string(text)))
		require.LessOrEqual(t, len(found), maxPackages)
		for i, name := range found {
			require.True(t, driverPackage(name), "%q", name)
			require.LessOrEqual(t, len(name), 100)
			require.NotContains(t, found[:i], name)
		}

		state := strings.Fields(status)
		if len(state) != 3 || strings.ContainsAny(status, "\r\n") {
			return
		}
		lines := strings.SplitAfter(string(text), "\n")
		if last := len(lines) - 1; lines[last] != "" {
			lines[last] += "\n"
		}
		name := some[int(which)%len(some)]
		with := slices.Insert(lines, int(at)%(len(lines)+1), "\nPackage: "+name+"\nArchitecture: amd64\nStatus: "+status+"\nVersion: 1\n\n")
		again, _ := dpkgDriverPackages(strings.NewReader(strings.Join(with, "")))
		if state[2] != "config-files" && state[2] != "not-installed" {
			require.True(t, slices.Contains(again, name) || len(again) == maxPackages, "%q in %q", name, again)
		}
	})
}

// Only one answer of nvidia-smi is a good one, and what is said of all others
// can be shown.
func FuzzAnswerOfNvidiaSMI(f *testing.F) {
	const want = version.Driver("580.76.05")
	for _, text := range []string{
		"580.76.05\n", "580.76.05\n580.76.05\n", "\n", "580.76.05\n580.142\n", "580.76.05\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n",
		"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n\n",
		"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.76\n", "\x1b[2J\u202e\xff", strings.Repeat("\x00", 5000),
	} {
		for _, code := range []uint8{0, 4, 9, 14, 18, 77, 255} {
			f.Add(code, text)
		}
	}
	f.Fuzz(func(t *testing.T, code uint8, text string) {
		err := judge(int(code), text, want)
		if err == nil {
			require.Contains(t, []uint8{0, corruptInfoROM}, code)
			require.Contains(t, text, string(want))
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				require.True(t, line == "" || line == string(want) || strings.HasPrefix(line, "WARNING:"), "%q", line)
			}
			for _, other := range []string{"580.76.5", "580.142", "[N/A]", "580.76.05 580.142", "Failed to initialize NVML"} {
				require.Error(t, judge(int(code), other+"\n"+text, want))
				require.Error(t, judge(int(code), strings.TrimRight(text, "\n")+"\n"+other, want))
			}
			require.Error(t, judge(9, text, want))
			return
		}
		require.NotEmpty(t, hint.Of(err))
		require.LessOrEqual(t, len(err.Error()), 1000)
		require.True(t, utf8.ValidString(err.Error()))
		for _, r := range err.Error() {
			require.True(t, unicode.IsPrint(r), "%q", err)
		}
	})
}
