package runfile

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// sampleTree unpacks a sample run file of a version.
func sampleTree(t *testing.T, v, arch string) (Manifest, string) {
	t.Helper()
	dir := t.TempDir()
	name, err := fakerun.Write(dir, fakerun.Spec{Version: v, Arch: arch, NoDecompressor: true})
	require.NoError(t, err)
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	tree := filepath.Join(dir, "tree")
	_, err = Unpack(t.Context(), f, tree, Want{})
	require.NoError(t, err)
	text, err := os.Open(filepath.Join(tree, ".manifest"))
	require.NoError(t, err)
	defer text.Close()
	m, err := ReadManifest(text)
	require.NoError(t, err)
	return m, tree
}

// stems are the libraries and programs of a manifest, 32-bit ones behind "32/".
func stems(m Manifest) []string {
	var names []string
	for _, e := range m.Entries {
		name := stem(e.Path)
		if e.Compat32 {
			name = "32/" + name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// What each capability brings, in each branch of the driver. The names and which of
// them need each other are those of NVIDIA's 470.256.02, 535.261.03 and 550.163.01.
func TestEachCapabilityBringsItsParts(t *testing.T) {
	always := "libcuda libnvidia-ml nvidia-installer nvidia-smi nvidia-uninstall"
	utility := "libnvidia-cfg nvidia-bug-report.sh nvidia-debugdump"
	compute := "libOpenCL libnvidia-allocator libnvidia-nvvm libnvidia-opencl libnvidia-ptxjitcompiler nvidia-cuda-mps-control nvidia-cuda-mps-server nvidia.icd"
	video := "libnvcuvid libnvidia-encode libnvidia-opticalflow libvdpau_nvidia"
	graphics := "10_nvidia.json 10_nvidia_wayland.json libEGL libEGL_nvidia libGL libGLESv1_CM_nvidia libGLESv2_nvidia libGLX libGLX_nvidia libGLdispatch libOpenGL " +
		"libnvidia-allocator libnvidia-eglcore libnvidia-egl-wayland libnvidia-fbc libnvidia-glcore libnvidia-glsi libnvidia-glvkspirv libnvidia-ptxjitcompiler " +
		"libnvidia-rtcore libnvidia-tls libnvoptix nvidia_icd.json nvidia-application-profiles-VER-rc"
	display := "LICENSE NVIDIA_Changelog README.txt libglxserver_nvidia libnvidia-gtk3 nvidia-persistenced nvidia-settings nvidia-settings.desktop nvidia-settings.png nvidia-sleep.sh " +
		"nvidia-xconfig nvidia_drv gsp_ga10x.bin gsp_tu10x.bin nvidia-drm-outputclass.conf nvidia-smi.1.gz nvidia-suspend.service"
	for v, more := range map[string]map[Capability]string{
		"470.256.02": {Compute: "libnvidia-compiler", Graphics: "libnvidia-cbl libnvidia-ifr libnvidia-vulkan-producer"},
		"535.261.03": {Compute: "libcudadebugger libnvidia-pkcs11-openssl3", Graphics: "libnvidia-api libnvidia-egl-gbm libnvidia-vulkan-producer nvidia-drm_gbm"},
		"550.163.01": {Compute: "libcudadebugger libnvidia-pkcs11-openssl3 libnvidia-gpucomp", Graphics: "libnvidia-api libnvidia-egl-gbm libnvidia-gpucomp nvidia-drm_gbm nvoptix.bin"},
		"580.119.02": {Compute: "libcudadebugger libnvidia-pkcs11-openssl3 libnvidia-gpucomp", Graphics: "libnvidia-api libnvidia-egl-gbm libnvidia-gpucomp nvidia-drm_gbm nvoptix.bin"},
	} {
		t.Run(v, func(t *testing.T) {
			m, tree := sampleTree(t, v, "x86_64")
			parts := map[Capability][]string{
				Utility: strings.Fields(utility), Compute: strings.Fields(compute + " " + more[Compute]), Video: strings.Fields(video),
				Graphics: strings.Fields(strings.ReplaceAll(graphics, "VER", v) + " " + more[Graphics]), NGX: {"_nvngx.dll", "libnvidia-ngx", "nvngx.dll"},
			}
			for c, want := range parts {
				got, err := m.Choose(tree, []Capability{c})
				require.NoError(t, err)
				want = append(want, strings.Fields(always)...)
				slices.Sort(want)
				require.Equal(t, want, stems(got), "%s", c)
			}
			got, err := m.Choose(tree, []Capability{Display})
			require.NoError(t, err)
			require.Subset(t, stems(got), strings.Fields(display))
			require.NotContains(t, stems(got), "libnvoptix")

			got, err = m.Choose(tree, []Capability{Video, Compat32})
			require.NoError(t, err)
			require.Subset(t, stems(got), []string{"32/libcuda", "32/libnvcuvid", "32/libnvidia-ml"})
			require.NotContains(t, stems(got), "32/libnvidia-opencl")

			all, err := m.Choose(tree, []Capability{All})
			require.NoError(t, err)
			for _, e := range m.Entries {
				require.Equal(t, !kernel(e), slices.ContainsFunc(all.Entries, func(o Entry) bool { return o == e }), e.Path)
			}
		})
	}
}

// The firmware, X modules and manuals of a machine are in no container that does
// not ask for them, and no kernel module is in any.
func TestTheDefaultLeavesOutWhatServesAMachine(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		m, tree := sampleTree(t, "550.163.01", arch)
		got, err := m.Choose(tree, []Capability{Compute, Utility, Video, Graphics})
		require.NoError(t, err)
		for _, e := range got.Entries {
			require.NotContains(t, []string{"FIRMWARE", "XMODULE_SHARED_LIB", "GLX_MODULE_SHARED_LIB", "DOCUMENTATION", "MANPAGE", "KERNEL_MODULE_SRC", "DKMS_CONF", "SYSTEMD_UNIT"}, e.Type)
			require.False(t, e.Compat32)
		}
	}
}

// A branch to come may move code into a library that this table counts elsewhere:
// what a chosen library needs comes with it, and so does what leads to that.
func TestWhatAChosenLibraryNeedsComesWithIt(t *testing.T) {
	m, tree := sampleTree(t, "580.119.02", "x86_64")
	partOf["libGLX_nvidia"] = []Capability{Utility}
	t.Cleanup(func() { delete(partOf, "libGLX_nvidia") })
	got, err := m.Choose(tree, []Capability{Utility})
	require.NoError(t, err)
	require.Subset(t, stems(got), []string{"libnvidia-glcore", "libnvidia-tls", "libnvidia-gpucomp", "libnvidia-glsi"})
	require.NotContains(t, stems(got), "libnvidia-eglcore")
	for _, e := range got.Entries {
		if !e.IsLink() {
			continue
		}
		require.True(t, slices.ContainsFunc(got.Entries, func(o Entry) bool { return path.Base(o.Path) == path.Base(e.Target) }), "%s leads nowhere", e.Path)
	}
}

// The installer reads the chosen manifest as it reads the whole one.
func TestAChosenManifestIsAManifest(t *testing.T) {
	m, tree := sampleTree(t, "470.256.02", "x86_64")
	got, err := m.Choose(tree, []Capability{Compute})
	require.NoError(t, err)
	again, err := ReadManifest(strings.NewReader(got.Text()))
	require.NoError(t, err)
	require.Equal(t, got, again)
	require.Equal(t, version.Driver("470.256.02"), again.Version)
	require.Len(t, again.head, 8)

	whole, err := os.ReadFile(filepath.Join(tree, ".manifest"))
	require.NoError(t, err)
	require.Equal(t, string(whole), m.Text())
}

// A driver to come: its types are kept, whatever they are.
func TestATypeThatIsNotKnownIsKept(t *testing.T) {
	m := read(t, head8+lines550)
	got, err := m.Choose(t.TempDir(), []Capability{Utility})
	require.NoError(t, err)
	require.Contains(t, stems(got), "something-new")
}

func TestNeedsOfWhatIsNoLibraryAreNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	for _, text := range []string{"", "\x7fELF", "#!/bin/sh\n", "\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 500)} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		names, err := Needs(file)
		require.NoError(t, err, "%q", text)
		require.Empty(t, names)
	}
	_, err := Needs(filepath.Dir(file))
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
}
