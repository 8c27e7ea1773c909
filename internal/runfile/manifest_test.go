package runfile

import (
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const head8 = "NVIDIA Accelerated Graphics Driver for Linux-x86_64\n550.163.01\nnvidia.ko\nnvidia nvidia-uvm nvidia-modeset\n\n\n./kernel/\n./kernel/precompiled/\n"

const lines550 = `libcuda.so.550.163.01 0755 CUDA_LIB NATIVE / MODULE:gpgpu
libcuda.so.1 0000 CUDA_SYMLINK NATIVE / libcuda.so.550.163.01 MODULE:gpgpu
./32/libcuda.so.550.163.01 0755 CUDA_LIB COMPAT32 / MODULE:gpgpucomp
libvdpau_nvidia.so.550.163.01 0755 VDPAU_LIB NATIVE vdpau/ MODULE:vdpau
libnvidia-ml.so.550.163.01 0755 UTILITY_LIB NATIVE MODULE:nvml
libnvidia-ml.so.1 0000 UTILITY_LIB_SYMLINK NATIVE libnvidia-ml.so.550.163.01 MODULE:nvml
libnvidia-tls.so.550.163.01 0755 TLS_LIB NATIVE / MODULE:opengl
libnvidia-eglcore.so.550.163.01 0755 OPENGL_LIB NATIVE MODULE:opengl
libGLX_indirect.so.0 0000 OPENGL_SYMLINK NATIVE libGLX_nvidia.so.550.163.01 MODULE:opengl
libEGL_nvidia.so.0 0000 OPENGL_SYMLINK NATIVE libEGL_nvidia.so.550.163.01 MODULE:opengl
libGLdispatch.so.0 0755 GLVND_LIB NATIVE MODULE:opengl
libOpenCL.so.1.0.0 0755 OPENCL_WRAPPER_LIB NATIVE / MODULE:opencl
nvidia-drm_gbm.so 0000 GBM_BACKEND_LIB_SYMLINK NATIVE libnvidia-allocator.so.1 MODULE:opengl
nvidia-smi 0755 UTILITY_BINARY MODULE:nvml
nvidia-modprobe 04755 NVIDIA_MODPROBE /usr/bin/ MODULE:installer
nvidia-installer 0755 INSTALLER_BINARY MODULE:installer
nvidia-uninstall 0000 UTILITY_BIN_SYMLINK nvidia-installer MODULE:installer
nvidia.icd 0644 CUDA_ICD MODULE:opencl
nvidia_icd.json 0644 VULKAN_ICD_JSON icd.d/ MODULE:vulkan
nvoptix.bin 0644 EXPLICIT_PATH /usr/share/nvidia MODULE:optix
libglvnd_install_checker/glvnd_check 0755 INTERNAL_UTILITY_BINARY NATIVE MODULE:installer
firmware/gsp_tu10x.bin 0644 FIRMWARE INHERIT_PATH_DEPTH:1 MODULE:resman
kernel/nvidia/nv.c 0644 KERNEL_MODULE_SRC INHERIT_PATH_DEPTH:1 MODULE:resman
nvidia-suspend.service 0644 SYSTEMD_UNIT MODULE:powermanagement
systemd-suspend.service.requires/nvidia-suspend.service 0000 SYSTEMD_UNIT_SYMLINK systemd-suspend.service.requires nvidia-suspend.service MODULE:powermanagement
nvngx.dll 0644 WINE_LIB NATIVE MODULE:ngx
something-new 0644 QUANTUM_LIB NATIVE /a/b c MODULE:future
`

func read(t testing.TB, text string) Manifest {
	m, err := ReadManifest(strings.NewReader(text))
	require.NoError(t, err)
	return m
}

func TestManifestKeepsEveryField(t *testing.T) {
	m, err := ReadManifest(iotest.OneByteReader(strings.NewReader(head8 + lines550 + "\nafter the end ...\n")))
	require.NoError(t, err)
	require.Equal(t, version.Driver("550.163.01"), m.Version)
	require.Len(t, m.Entries, strings.Count(lines550, "\n"))
	for i, want := range map[int]Entry{
		0:  {Path: "libcuda.so.550.163.01", Mode: 0o755, Type: "CUDA_LIB", Dest: "/", Module: "gpgpu"},
		1:  {Path: "libcuda.so.1", Type: "CUDA_SYMLINK", Dest: "/", Target: "libcuda.so.550.163.01", Module: "gpgpu"},
		2:  {Path: "32/libcuda.so.550.163.01", Mode: 0o755, Type: "CUDA_LIB", Compat32: true, Dest: "/", Module: "gpgpucomp"},
		5:  {Path: "libnvidia-ml.so.1", Type: "UTILITY_LIB_SYMLINK", Target: "libnvidia-ml.so.550.163.01", Module: "nvml"},
		14: {Path: "nvidia-modprobe", Mode: 0o4755, Type: "NVIDIA_MODPROBE", Dest: "/usr/bin/", Module: "installer"},
		21: {Path: "firmware/gsp_tu10x.bin", Mode: 0o644, Type: "FIRMWARE", Module: "resman"},
		22: {Path: "kernel/nvidia/nv.c", Mode: 0o644, Type: "KERNEL_MODULE_SRC", Dest: "nvidia", Module: "resman"},
		26: {Path: "something-new", Mode: 0o644, Type: "QUANTUM_LIB", Module: "future"},
	} {
		require.Equal(t, want, m.Entries[i])
	}
}

func TestUserSpaceIsWhatTheInstallerSurelyInstalls(t *testing.T) {
	const lib = "/usr/lib/x86_64-linux-gnu"
	m := read(t, head8+lines550)
	got := map[string]string{}
	for _, e := range m.UserSpace(false, "--no-backup") {
		at, ok := m.InstalledAt(e, lib)
		require.True(t, ok, e.Path)
		got[at] = e.LinkText(lib)
		require.Equal(t, e.IsLink(), got[at] != "")
	}
	require.Equal(t, map[string]string{
		lib + "/libcuda.so.550.163.01":                  "",
		lib + "/libcuda.so.1":                           "libcuda.so.550.163.01",
		lib + "/vdpau/libvdpau_nvidia.so.550.163.01":    "",
		lib + "/libnvidia-ml.so.550.163.01":             "",
		lib + "/libnvidia-ml.so.1":                      "libnvidia-ml.so.550.163.01",
		lib + "/libnvidia-tls.so.550.163.01":            "",
		lib + "/libnvidia-eglcore.so.550.163.01":        "",
		lib + "/libEGL_nvidia.so.0":                     "libEGL_nvidia.so.550.163.01",
		lib + "/gbm/nvidia-drm_gbm.so":                  lib + "/libnvidia-allocator.so.1",
		"/usr/bin/nvidia-smi":                           "",
		"/usr/bin/nvidia-installer":                     "",
		"/usr/bin/nvidia-uninstall":                     "nvidia-installer",
		"/etc/OpenCL/vendors/nvidia.icd":                "",
		"/usr/share/nvidia/nvoptix.bin":                 "",
		"/usr/lib/nvidia/glvnd_check":                   "",
		"/lib/firmware/nvidia/550.163.01/gsp_tu10x.bin": "",
	}, got)
}

func TestOptionsThatMoveFilesLeaveThemOut(t *testing.T) {
	m := read(t, head8+lines550)
	for _, c := range []struct {
		options    []string
		gone, kept string
	}{
		{[]string{"--no-opengl-files"}, "libnvidia-eglcore.so.550.163.01", "libcuda.so.550.163.01"},
		{[]string{"--opengl-prefix=/opt"}, "libcuda.so.1", "libnvidia-ml.so.1"},
		{[]string{"--utility-prefix", "/opt"}, "nvidia-smi", "libcuda.so.1"},
		{[]string{"--gbm-backend-dir=/x"}, "nvidia-drm_gbm.so", "libcuda.so.1"},
		{[]string{"--override-file-type-destination=CUDA_ICD:/x"}, "nvidia.icd", "libcuda.so.1"},
		{[]string{"--override-file-type-destination", "CUDA_ICD:/x"}, "nvidia.icd", "libcuda.so.1"},
	} {
		var names []string
		for _, e := range m.UserSpace(false, c.options...) {
			names = append(names, path.Base(e.Path))
		}
		require.NotContains(t, names, c.gone, c.options)
		require.Contains(t, names, c.kept, c.options)
	}
}

// Up to 396 the installer chose between two TLS libraries of one name by probing
// the system, up to 430 it made the Vulkan file from a template.
func TestOldManifestIsReadAndItsChoicesAreNotPromised(t *testing.T) {
	m := read(t, "NVIDIA Accelerated Graphics Driver for Linux-x86_64\n390.157\nx\ny\nz\n\n\n./usr/src/\n./kernel/precompiled\n"+
		"libnvidia-tls.so.390.157 0755 TLS_LIB NATIVE CLASSIC / MODULE:opengl\n"+
		"tls/libnvidia-tls.so.390.157 0755 TLS_LIB NATIVE NEW tls/ MODULE:opengl\n"+
		"libGL.so.1.7.0 0755 GLX_CLIENT_LIB NATIVE GLVND MODULE:opengl\n"+
		"nvidia_icd.json.template 0644 VULKAN_ICD_JSON MODULE:vulkan\n"+
		"nvidia-smi 0755 UTILITY_BINARY\n")
	require.Len(t, m.Entries, 5)
	require.Equal(t, "tls/", m.Entries[1].Dest)
	require.Len(t, m.UserSpace(false), 1)
	_, ok := m.InstalledAt(m.Entries[0], "/usr/lib64")
	require.False(t, ok)
}

func TestMalformedManifestNamesTheLine(t *testing.T) {
	for line, says := range map[string]string{
		"../../etc/passwd 0644 UTILITY_BINARY":                    "leads out of the tree",
		"/etc/passwd 0644 UTILITY_BINARY":                         "leads out of the tree",
		"a/ 0644 UTILITY_BINARY":                                  "is a folder",
		"a 0844 UTILITY_BINARY":                                   `"0844" is not a file mode`,
		"a 0170644 UTILITY_BINARY":                                "is not a file mode",
		"a 0644":                                                  "no name, mode and type",
		"a 0644 CUDA_LIB PPC64 / MODULE:x":                        "neither NATIVE nor COMPAT32",
		"a 0644 CUDA_LIB":                                         "neither NATIVE nor COMPAT32",
		"a 0644 CUDA_LIB NATIVE /../../x MODULE:x":                "leads elsewhere",
		"a 0644 EXPLICIT_PATH /usr/../../etc MODULE:x":            "leads elsewhere",
		"a 0000 UTILITY_BIN_SYMLINK MODULE:x":                     "a link without target",
		"a 0000 CUDA_SYMLINK NATIVE MODULE:x":                     "a link without target",
		"firmware/a 0644 FIRMWARE INHERIT_PATH_DEPTH:5 MODULE:x":  "is not a depth",
		"firmware/a 0644 FIRMWARE INHERIT_PATH_DEPTH:-1 MODULE:x": "is not a depth",
		"firmware/a 0644 FIRMWARE MODULE:x":                       "is not a depth",
		"a\x1b[2J 0644 UTILITY_BINARY":                            "control characters",
	} {
		_, err := ReadManifest(strings.NewReader(head8 + "ok 0755 UTILITY_BINARY\n" + line + "\n"))
		require.ErrorContains(t, err, says, line)
		require.ErrorContains(t, err, "line 10:", line)
		require.ErrorIs(t, err, ErrContent, line)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

func TestManifestIsBounded(t *testing.T) {
	entry := "some/rather/long/path/to/a/file 0644 DOCUMENTATION doc/ MODULE:x\n"
	for name, text := range map[string]string{
		"no entries in 0 lines":        "",
		"no entries in 8 lines":        head8,
		"not a driver version":         "desc\nnot a version\n",
		"more than 20000 entries":      head8 + strings.Repeat(entry, maxEntries+1),
		"line 9 is longer than":        head8 + strings.Repeat("x", maxLine+1) + "\n",
		"more than 4194304 bytes":      head8 + strings.Repeat(strings.Repeat("y", 400)+entry, 12_000),
		"line 2 is longer than 8192 b": "desc\n" + strings.Repeat("x", 1<<20),
	} {
		_, err := ReadManifest(strings.NewReader(text))
		require.ErrorContains(t, err, name)
		require.ErrorIs(t, err, ErrContent, name)
	}
	_, err := ReadManifest(io.MultiReader(strings.NewReader(head8+"libcuda.so 07"), iotest.ErrReader(io.ErrClosedPipe)))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NotErrorIs(t, err, ErrContent)
}

func FuzzManifest(f *testing.F) {
	f.Add(head8 + lines550)
	for l := range strings.Lines(lines550) {
		f.Add(head8 + l)
	}
	f.Add("d\n390.157\n\n\n\n\n\n\n\na 0755 TLS_LIB NATIVE NEW tls/ MODULE:x\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ReadManifest(strings.NewReader(text))
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
			return
		}
		require.NotEmpty(t, m.Entries)
		for _, e := range m.Entries {
			require.False(t, path.IsAbs(e.Path))
			require.NotContains(t, strings.Split(e.Path, "/"), "..")
			at, ok := m.InstalledAt(e, "/usr/lib64")
			if !ok {
				continue
			}
			require.True(t, path.IsAbs(at), "%q", at)
			require.Equal(t, path.Clean(at), at)
			require.NotEqual(t, "/", at)
			require.False(t, strings.ContainsAny(fmt.Sprint(e), "\x00\n\x1b"))
		}
	})
}

// A driver to come may list its sources or manual pages in a way of its own; that
// must not keep its libraries from being installed.
func TestOddFieldsMatterOnlyWhereTheyAreNeeded(t *testing.T) {
	m := read(t, head8+lines550+
		"kernel/nvidia/nv.c 0644 KERNEL_MODULE_SRC DEPTH=1 MODULE:resman\n"+
		"nvidia-smi.1.gz 0644 MANPAGE ../man1/ MODULE:nvml\n")
	require.Equal(t, len(read(t, head8+lines550).UserSpace(false)), len(m.UserSpace(false)))
	_, err := ReadManifest(strings.NewReader(head8 + "libcuda.so.550.163.01 0755 CUDA_LIB SPARC / MODULE:gpgpu\n"))
	require.ErrorIs(t, err, ErrContent)
	_, err = ReadManifest(strings.NewReader(head8 + "../nv.c 0644 KERNEL_MODULE_SRC INHERIT_PATH_DEPTH:1 MODULE:resman\n"))
	require.ErrorIs(t, err, ErrContent)
}
