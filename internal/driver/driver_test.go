package driver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestAnswersOfNvidiaSMI(t *testing.T) {
	const want = version.Driver("580.76.05")
	for name, c := range map[string]struct {
		code   int
		stdout string
		says   string
	}{
		"one GPU":          {0, "580.76.05\n", ""},
		"two GPUs":         {0, "580.76.05\n580.76.05\n", ""},
		"no GPU":           {0, "\n", "names no GPU"},
		"other version":    {0, "580.76.05\n580.142\n", "says version 580.142 instead of 580.76.05"},
		"worn infoROM":     {14, "580.76.05\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n", ""},
		"worn and other":   {14, "580.142\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n", "says version 580.142 instead"},
		"worn, no answer":  {14, "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n", "a GPU's infoROM is corrupted"},
		"no power":         {8, "", "lacks its external power"},
		"control bytes":    {0, "\x1b[2J", `says version \x1b[2J instead`},
		"no driver":        {9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n\n", "exit status 9, it cannot talk to the kernel module: NVIDIA-SMI has failed"},
		"mismatch":         {18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.76\n", "of different versions: Failed to initialize NVML: Driver/library version mismatch"},
		"unknown to us":    {77, "odd\n", "exit status 77, the reason is unknown: odd"},
		"no device":        {6, "No devices were found\n", "finds no GPU: No devices were found"},
		"none, 255":        {255, "No supported GPUs were found\n", "finds no GPU"},
		"none, all well":   {0, "No devices were found\n", "finds no GPU"},
		"not there":        {127, "", "exit status 127: it is not found in the container"},
		"not executable":   {126, "", "exit status 126: it cannot be executed"},
		"no permission":    {4, "Failed to initialize NVML: Insufficient Permissions\n", "may not open the GPU's device nodes"},
		"fell off":         {15, "", "has fallen off the bus"},
		"blocked":          {17, "", "cgroup blocks the GPU"},
		"nothing to quote": {12, "", "exit status 12: libnvidia-ml.so.1 is not found"},
	} {
		t.Run(name, func(t *testing.T) {
			err := judge(c.code, c.stdout, want)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.NotEmpty(t, hint.Of(err))
		})
	}
}

func TestTheLowestCapabilityCountsAndNonsenseDoesNot(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		stdout string
		want   string
	}{
		"one GPU":       {0, "6.1\n", "6.1"},
		"two GPUs":      {0, "12.0\n7.0\n", "7.0"},
		"by number":     {0, "10.0\n8.9\n", "8.9"},
		"one not known": {0, "[N/A]\n8.6\n", "8.6"},
		"worn infoROM":  {14, "6.1\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n", "6.1"},
		"older one":     {2, "Field \"compute_cap\" is not a valid field to query.\n\n", ""},
		"failed":        {255, "6.1\n", ""},
		"no GPU":        {0, "No devices were found\n", ""},
		"hostile":       {0, "\x1b[2J\n0.1\n6.1.1\n-6.1\n6.1 \x00\n123.4\n", ""},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, lowest(c.code, c.stdout)) })
	}
}

func TestDpkgStatus(t *testing.T) {
	const status = `Package: libc6
Status: install ok installed

Package: libcuda1
Status: deinstall ok config-files

Package: libnvidia-compute-570
Status: install ok installed

Package: nvidia-container-toolkit
Status: install ok installed

Package: nvidia-utils-570-server
Status: hold ok unpacked

Package: libnvidia-container1
Status: install ok installed
`
	found, _ := dpkgDriverPackages(strings.NewReader(status))
	require.Equal(t, []string{"libnvidia-compute-570", "nvidia-utils-570-server"}, found)
}

func TestPacmanFolders(t *testing.T) {
	require.Equal(t, []string{"nvidia-utils"}, pacmanDriverPackages([]string{
		"ALPM_DB_VERSION", "bash-5.2.037-1", "nvidia-utils-580.76.05-1", "nvidia-utils-580.76.05-2", "nvidia-utils;reboot-1-1", "x", "-", "",
	}))
	var many []string
	for i := range 20000 {
		many = append(many, fmt.Sprintf("nvidia-utils-%d-1-1", i))
	}
	require.Len(t, pacmanDriverPackages(many), maxPackages, "a container can make as many as it likes")
}

func TestPackageNamesAreShownOnlyInTheirProperForm(t *testing.T) {
	const status = "Package: libnvidia-compute-5; curl x | sh\nStatus: install ok installed\n\n" +
		"Package: nvidia-utils-5\x1b[2J\nStatus: install ok installed\n"
	found, _ := dpkgDriverPackages(strings.NewReader(status))
	require.Empty(t, found)
}

// options are those for a driver, for given capabilities and options of the user's.
func options(v version.Driver, arch string, capabilities []runfile.Capability, flags ...string) []string {
	return Job{Report: runfile.Report{Header: runfile.Header{Version: v, Arch: arch}}, Capabilities: capabilities, Flags: flags}.Options()
}

func TestOnlyKnownOptionsArePassed(t *testing.T) {
	some := []runfile.Capability{runfile.Compute, runfile.Utility}
	old := options("470.256.02", "x86_64", some, "--no-backup")
	require.Contains(t, old, "--no-kernel-module")
	require.NotContains(t, old, "--no-kernel-modules")
	require.Contains(t, old, "--no-recursion")
	require.Contains(t, old, "--no-systemd")
	require.Equal(t, "--no-backup", old[len(old)-1])
	older := options("390.157", "x86_64", some)
	require.NotContains(t, older, "--no-systemd")
	require.NotContains(t, older, "--skip-depmod")
	require.Contains(t, older, "--no-recursion", "known to every version")
	arm := options("580.142", "aarch64", some)
	require.NotContains(t, arm, "--no-install-compat32-libs", "an unknown option there, with which nothing is installed")
	for _, option := range []string{"--silent", "--no-kernel-modules", "--no-systemd", "--skip-depmod"} {
		require.Contains(t, arm, option)
	}
	require.Contains(t, options("580.142", "x86_64", some), "--no-install-compat32-libs")
}

func TestWhatTheUserSaysOf32BitLibrariesHolds(t *testing.T) {
	const with, without = "--install-compat32-libs", "--no-install-compat32-libs"
	all, narrow, wide := []runfile.Capability{runfile.All}, []runfile.Capability{runfile.Compute, runfile.Compat32}, []runfile.Capability{runfile.Compute}
	for _, c := range []struct {
		name         string
		capabilities []runfile.Capability
		flags        []string
		said         []string
		wants        bool
	}{
		{"not chosen", wide, nil, []string{without}, false},
		{"chosen", narrow, nil, []string{with}, true},
		{"all of it", all, nil, nil, true},
		{"by an option", wide, []string{with}, []string{with}, true},
		{"not by an option", narrow, []string{without}, []string{without}, false},
		{"all but that", all, []string{without}, []string{without}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := Job{Report: runfile.Report{Header: runfile.Header{Version: "550.163.01", Arch: "x86_64"}}, Capabilities: c.capabilities, Flags: c.flags}
			var said []string
			for _, o := range j.Options() {
				if o == with || o == without {
					said = append(said, o)
				}
			}
			require.Equal(t, c.said, said)
			require.Equal(t, c.wants, j.wants(runfile.Compat32))
		})
	}
	require.NotContains(t, options("550.163.01", "x86_64", wide, "--systemd"), "--no-systemd", "the same holds for other options")
}

func TestOrphansAreTheDriversAlone(t *testing.T) {
	for name, want := range map[string]bool{
		"libcuda.so.550.163.01": true, "libnvidia-ml.so.580.142": true, "libEGL_nvidia.so.1000.1": true,
		"libnvidia-egl-wayland.so.1.1.20":     false, // a version of its own
		"libnvidia-container.so.1.18.2":       false, // of the Container Toolkit
		"libnvidia-container-go.so.580.142":   false,
		"libnvidia-nscq.so.535.104.05":        false, // a package of its own, of the driver's version
		"libcuda.so.1":                        false,
		"libnvidia-ml.so.580.142.dpkg-divert": false,
	} {
		require.Equal(t, want, orphan().MatchString(name) && !theirs().MatchString(name), name)
	}
	require.False(t, ours("/usr/lib/x86_64-linux-gnu/libnvidia-container.so.1"))
}

func TestOnlyDriverFilesOfARecordAreRemoved(t *testing.T) {
	for _, name := range []string{"/usr/bin/nvidia-smi", "/lib/firmware/nvidia/580.142/gsp_ga10x.bin", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libnvidia-ml.so.580.142", "/usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.580.142"} {
		require.True(t, ours(name), name)
	}
	for _, name := range []string{"/etc/passwd", "/usr/bin/bash", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/nvidia-../x", "/lib/firmware/nvidia/../x"} {
		require.False(t, ours(name), name)
	}
}
