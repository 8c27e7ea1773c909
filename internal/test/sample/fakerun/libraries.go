package fakerun

import (
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// library is one shared library of the driver. In its names "VER" stands for the version.
type library struct {
	file   string
	soname string // "": the file's name
	kind   string // type in .manifest
	path   string // below the library folder, for types that have one; "" for those that have none
	links  string // names of links to the file; a space between two
	needs  string // what its ELF header needs beside the C library; a space between two
	module string
	weight int // MB of the 64-bit file in a real driver
	narrow int // MB of the 32-bit file; 0: there is none
	since  version.Driver
	before version.Driver
}

var libraries = []library{
	{file: "libcuda.so.VER", soname: "libcuda.so.1", kind: "CUDA_LIB", path: "/", links: "libcuda.so.1 libcuda.so", module: "gpgpu", weight: 28, narrow: 30},
	{file: "libnvidia-ml.so.VER", soname: "libnvidia-ml.so.1", kind: "UTILITY_LIB", links: "libnvidia-ml.so.1 libnvidia-ml.so", module: "nvml", weight: 2, narrow: 2},
	{file: "libcudadebugger.so.VER", soname: "libcudadebugger.so.1", kind: "CUDA_LIB", path: "/", links: "libcudadebugger.so.1", module: "gpgpucomp", weight: 11, since: "520.56.06"},
	{file: "libnvidia-ptxjitcompiler.so.VER", soname: "libnvidia-ptxjitcompiler.so.1", kind: "CUDA_LIB", path: "/", links: "libnvidia-ptxjitcompiler.so.1 libnvidia-ptxjitcompiler.so", module: "gpgpucomp", weight: 28, narrow: 22},
	{file: "libnvidia-nvvm.so.VER", soname: "libnvidia-nvvm.so.4", kind: "CUDA_LIB", path: "/", links: "libnvidia-nvvm.so.4 libnvidia-nvvm.so", module: "gpgpucomp", weight: 85, narrow: 46, since: "495.29.05"},
	{file: "libnvidia-compiler.so.VER", kind: "CUDA_LIB", path: "/", module: "gpgpucomp", weight: 47, narrow: 47, before: "495.29.05"},
	{file: "libnvidia-opencl.so.VER", soname: "libnvidia-opencl.so.1", kind: "OPENCL_LIB", path: "/", links: "libnvidia-opencl.so.1", module: "opencl", weight: 46, narrow: 20},
	{file: "libOpenCL.so.1.0.0", soname: "libOpenCL.so.1", kind: "OPENCL_WRAPPER_LIB", path: "/", links: "libOpenCL.so.1.0 libOpenCL.so.1 libOpenCL.so", module: "opencl", weight: 1, narrow: 1},
	{file: "libnvcuvid.so.VER", soname: "libnvcuvid.so.1", kind: "NVCUVID_LIB", links: "libnvcuvid.so.1 libnvcuvid.so", module: "video", weight: 10, narrow: 10},
	{file: "libnvidia-encode.so.VER", soname: "libnvidia-encode.so.1", kind: "ENCODEAPI_LIB", links: "libnvidia-encode.so.1 libnvidia-encode.so", module: "video", weight: 1, narrow: 1, needs: "libnvcuvid.so.1"},
	{file: "libnvidia-opticalflow.so.VER", soname: "libnvidia-opticalflow.so.1", kind: "UTILITY_LIB", links: "libnvidia-opticalflow.so.1", module: "video", weight: 1, narrow: 1, needs: "libnvcuvid.so.1"},
	{file: "libnvidia-fbc.so.VER", soname: "libnvidia-fbc.so.1", kind: "UTILITY_LIB", links: "libnvidia-fbc.so.1 libnvidia-fbc.so", module: "fbc", weight: 1, narrow: 1, needs: "libX11.so.6 libXext.so.6"},
	{file: "libnvoptix.so.VER", soname: "libnvoptix.so.1", kind: "OPENGL_LIB", links: "libnvoptix.so.1", module: "optix", weight: 157},
	{file: "libnvidia-rtcore.so.VER", kind: "OPENGL_LIB", module: "raytracing", weight: 76},
	{file: "libnvidia-glcore.so.VER", kind: "OPENGL_LIB", module: "opengl", weight: 27, narrow: 25, needs: "libnvidia-tls.so.VER libnvidia-gpucomp.so.VER"},
	{file: "libnvidia-eglcore.so.VER", kind: "OPENGL_LIB", module: "egl", weight: 24, narrow: 22, needs: "libnvidia-glsi.so.VER libnvidia-gpucomp.so.VER"},
	{file: "libnvidia-glsi.so.VER", kind: "OPENGL_LIB", module: "egl", weight: 1, narrow: 1},
	{file: "libnvidia-tls.so.VER", kind: "TLS_LIB", path: "/", module: "opengl", weight: 1, narrow: 1},
	{file: "libnvidia-glvkspirv.so.VER", kind: "OPENGL_LIB", module: "vulkan", weight: 30, narrow: 12},
	{file: "libnvidia-gpucomp.so.VER", kind: "OPENGL_LIB", module: "opengl", weight: 50, narrow: 30, since: "545.23.06"},
	{file: "libnvidia-allocator.so.VER", soname: "libnvidia-allocator.so.1", kind: "UTILITY_LIB", links: "libnvidia-allocator.so.1", module: "gbm", weight: 1, narrow: 1},
	{file: "libnvidia-cfg.so.VER", soname: "libnvidia-cfg.so.1", kind: "UTILITY_LIB", links: "libnvidia-cfg.so.1 libnvidia-cfg.so", module: "installer", weight: 1},
	{file: "libnvidia-ngx.so.VER", soname: "libnvidia-ngx.so.1", kind: "OPENGL_LIB", links: "libnvidia-ngx.so.1", module: "ngx", weight: 5},
	{file: "libnvidia-gtk3.so.VER", kind: "UTILITY_LIB", module: "settings", weight: 2, needs: "libgtk-3.so.0"},
	{file: "libnvidia-nvvm.so.4.0.0", soname: "libnvidia-nvvm.so.4", kind: "CUDA_LIB", path: "/", links: "libnvidia-nvvm.so.4 libnvidia-nvvm.so", module: "gpgpucomp", weight: 26, narrow: 20, since: "470.42.01", before: "495.29.05"},
	{file: "libnvidia-pkcs11-openssl3.so.VER", kind: "CUDA_LIB", path: "/", needs: "libcrypto.so.3", module: "gpgpu", weight: 1, since: "535.43.02"},
	{file: "libnvidia-ifr.so.VER", soname: "libnvidia-ifr.so.1", kind: "NVIFR_LIB", links: "libnvidia-ifr.so.1", needs: "libGL.so.1 libX11.so.6", module: "nvifr", weight: 1, narrow: 1, before: "495.29.05"},
	{file: "libnvidia-cbl.so.VER", kind: "OPENGL_LIB", module: "raytracing", weight: 1, before: "495.29.05"},
	{file: "libnvidia-vulkan-producer.so.VER", kind: "OPENGL_LIB", links: "libnvidia-vulkan-producer.so", needs: "libEGL_nvidia.so.0 libEGL.so.1", module: "vulkan", weight: 1, before: "545.23.06"},
	{file: "libnvidia-api.so.1", kind: "UTILITY_LIB", module: "nvapi", weight: 1, since: "525.60.11"},
	// Libraries with a version of their own, which distributions package too.
	{file: "libnvidia-egl-wayland.so.1.1.20", soname: "libnvidia-egl-wayland.so.1", kind: "OPENGL_LIB", links: "libnvidia-egl-wayland.so.1", module: "egl", weight: 1},
	{file: "libnvidia-egl-gbm.so.1.1.3", soname: "libnvidia-egl-gbm.so.1", kind: "OPENGL_LIB", links: "libnvidia-egl-gbm.so.1", module: "egl", weight: 1, since: "495.29.05"},
	{file: "libGLX_nvidia.so.VER", soname: "libGLX_nvidia.so.0", kind: "OPENGL_LIB", links: "libGLX_nvidia.so.0", module: "glx", weight: 1, narrow: 1, needs: "libnvidia-glsi.so.VER libnvidia-tls.so.VER libnvidia-glcore.so.VER libX11.so.6 libXext.so.6"},
	{file: "libEGL_nvidia.so.VER", soname: "libEGL_nvidia.so.0", kind: "OPENGL_LIB", links: "libEGL_nvidia.so.0", module: "egl", weight: 1, narrow: 1, needs: "libnvidia-glsi.so.VER"},
	{file: "libGLESv1_CM_nvidia.so.VER", soname: "libGLESv1_CM_nvidia.so.1", kind: "OPENGL_LIB", links: "libGLESv1_CM_nvidia.so.1", module: "egl", weight: 1, narrow: 1},
	{file: "libGLESv2_nvidia.so.VER", soname: "libGLESv2_nvidia.so.2", kind: "OPENGL_LIB", links: "libGLESv2_nvidia.so.2", module: "egl", weight: 1, narrow: 1},
	{file: "libGLdispatch.so.0", kind: "GLVND_LIB", module: "glvnd", weight: 1, narrow: 1},
	{file: "libOpenGL.so.0", kind: "GLVND_LIB", links: "libOpenGL.so", module: "glvnd", weight: 1, narrow: 1},
	{file: "libGL.so.1.7.0", soname: "libGL.so.1", kind: "GLX_CLIENT_LIB", links: "libGL.so.1 libGL.so", module: "glvnd", weight: 1, narrow: 1},
	{file: "libGLX.so.0", kind: "GLX_CLIENT_LIB", links: "libGLX.so", module: "glvnd", weight: 1, narrow: 1},
	{file: "libEGL.so.1.1.0", soname: "libEGL.so.1", kind: "EGL_CLIENT_LIB", links: "libEGL.so.1 libEGL.so", module: "glvnd", weight: 1, narrow: 1},
	{file: "libvdpau_nvidia.so.VER", soname: "libvdpau_nvidia.so.1", kind: "VDPAU_LIB", path: "vdpau/", links: "libvdpau_nvidia.so.1", module: "vdpau", weight: 1, narrow: 1, needs: "libXext.so.6 libX11.so.6"},
}

// link is the type of the links to a library of this type.
func (l library) link() string {
	switch l.kind {
	case "CUDA_LIB", "OPENGL_LIB", "VDPAU_LIB":
		return strings.TrimSuffix(l.kind, "_LIB") + "_SYMLINK"
	case "GLVND_LIB", "GLX_CLIENT_LIB", "EGL_CLIENT_LIB", "OPENCL_WRAPPER_LIB":
		return strings.TrimSuffix(l.kind, "_LIB") + "_SYMLINK"
	}
	return l.kind + "_SYMLINK"
}

// addLibraries adds all libraries of one word size.
func (p *payload) addLibraries(s Spec, narrow bool) {
	ver := func(name string) string { return strings.ReplaceAll(name, "VER", s.Version) }
	folder, arch, machine := "", "NATIVE", s.Arch
	if narrow {
		folder, arch, machine = "./32/", "COMPAT32", "i386"
	}
	for _, l := range libraries {
		weight := l.weight
		if narrow {
			weight = l.narrow
		}
		if weight == 0 || !l.in(s) {
			continue
		}
		file, soname := ver(l.file), ver(l.soname)
		if soname == "" {
			soname = file
		}
		where := arch
		if l.path != "" {
			where += " " + l.path
		}
		p.add(member{
			path: folder + file, mode: 0o755, head: sharedObject(machine, soname, l.needed(s)...), weight: weight,
			native: !narrow, entry: "0755 " + l.kind + " " + where + " MODULE:" + l.module,
		})
		for name := range strings.FieldsSeq(l.links) {
			p.list(folder + name + " 0000 " + l.link() + " " + where + " " + file + " MODULE:" + l.module)
		}
	}
}

// needed are the libraries that l needs in the sample's version. A library of the
// driver that this version does not have is needed by none.
func (l library) needed(s Spec) []string {
	var names []string
	for name := range strings.FieldsSeq(l.needs) {
		gone := slices.ContainsFunc(libraries, func(other library) bool { return other.file == name && !other.in(s) })
		if !gone {
			names = append(names, strings.ReplaceAll(name, "VER", s.Version))
		}
	}
	return names
}

// in tells whether the sample's version has the library.
func (l library) in(s Spec) bool {
	return (l.since == "" || s.since(l.since)) && (l.before == "" || !s.since(l.before))
}
