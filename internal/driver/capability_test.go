package driver

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

func TestOnlyTheChosenPartsAreInstalled(t *testing.T) {
	for _, deliver := range []string{"mount", "push"} {
		t.Run(deliver, func(t *testing.T) {
			g := newGuest(t, lab.Spec{})
			before := g.files()
			j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Compute, runfile.Utility)
			j.Deliver = deliver
			g.install(j)
			in := g.installed(j)
			there := g.sh("find /usr /lib/firmware /etc -name '*nvidia*' -o -name '*.bin' -o -name 'libcuda*' | sort")
			for _, name := range []string{"libcuda.so.550.163.01", "nvidia-smi", "libnvidia-ptxjitcompiler.so.1", "nvidia.icd", "nvidia-uninstall"} {
				require.Contains(t, there, name)
			}
			for _, name := range []string{"libnvidia-glcore", "libnvidia-rtcore", "libnvidia-encode", "gsp_", "nvidia_drv", "nvidia-settings", "nvidia_icd.json", "NVIDIA_GLX"} {
				require.NotContains(t, there, name)
			}
			require.False(t, slices.ContainsFunc(in.Files, func(f record.File) bool { return strings.Contains(f.Path, "libnvidia-glcore") }))

			in.Capabilities = []string{"compute", "utility"}
			require.Empty(t, Differs(g.Container, in, []string{"compute", "utility"}))
			require.Equal(t, "the driver has the capabilities compute, utility; all are configured", Differs(g.Container, in, []string{"all"}))
			in.Capabilities = nil
			require.Empty(t, Differs(g.Container, in, []string{"compute"}), "of a version that knew no parts")

			g.uninstall(in)
			g.sh("rmdir " + record.Folder)
			require.Equal(t, before, g.files())
		})
	}
}

// The installer leaves 32-bit libraries out, with status 0, where the container
// has no place for them.
func TestCompat32IsChecked(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Compute, runfile.Utility, runfile.Compat32)
	g.install(j)
	_, err := Files(g.Container, j)
	require.ErrorContains(t, err, "the 32-bit libraries of driver 550.163.01 are wanted but not installed")

	g.sh("mkdir -p /usr/lib/i386-linux-gnu")
	g.install(j)
	in := g.installed(j)
	require.True(t, slices.ContainsFunc(in.Files, func(f record.File) bool { return f.Path == "/usr/lib/i386-linux-gnu/libcuda.so.1" }))
	g.sh("rm /usr/lib/i386-linux-gnu/libnvidia-ml.so.550.163.01")
	_, err = Files(g.Container, j)
	require.ErrorContains(t, err, "/usr/lib/i386-linux-gnu/libnvidia-ml.so.550.163.01 is missing")

	wide := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Compute)
	wide.Flags = []string{"--install-compat32-libs"}
	g.uninstall(in)
	g.install(wide)
	require.True(t, slices.ContainsFunc(g.installed(wide).Files, func(f record.File) bool { return f.Path == "/usr/lib/i386-linux-gnu/libcuda.so.1" }))
}

func TestPackagesThatGraphicsLacksAreNamed(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Compute, runfile.Utility, runfile.Graphics)
	g.install(j)
	files := g.installed(j).Files
	lacks := func(j Job) Lacking {
		l, err := Lacks(g.Container, j, files)
		require.NoError(t, err)
		return l
	}
	require.Equal(t, Lacking{Packages: []string{"libegl1", "libgl1", "libvulkan1", "libx11-6", "libxext6"}}, lacks(j))
	g.sh("cd " + lib + " && touch libGL.so.1 libEGL.so.1 libvulkan.so.1")
	require.Equal(t, []string{"libx11-6", "libxext6"}, lacks(j).Packages)
	g.sh("rm /var/lib/dpkg/status && touch /usr/bin/dnf")
	require.Equal(t, []string{"libX11", "libXext"}, lacks(j).Packages)
	j.Capabilities = []runfile.Capability{runfile.Compute, runfile.Utility}
	require.Empty(t, lacks(j))

	// A library of the driver's own that is missing is no package's.
	j.Capabilities = []runfile.Capability{runfile.Graphics}
	g.sh("rm " + lib + "libnvidia-tls.so.550.163.01")
	files = slices.DeleteFunc(files, func(f record.File) bool { return strings.Contains(f.Path, "libnvidia-tls") })
	require.Equal(t, []string{"libnvidia-tls.so.550.163.01"}, lacks(j).Own)
}
