package cudapkg

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReleases(t *testing.T) {
	for _, s := range strings.Fields("12.8 13.10 11.0") {
		require.True(t, IsRelease(s), s)
	}
	for _, s := range strings.Fields("12 12.8.1 12-8 12.08 0.5 100.1 auto") {
		require.False(t, IsRelease(s), s)
	}
}

func TestNamesThatMayStandOnACommandLine(t *testing.T) {
	for _, s := range strings.Fields("nvtop libstdc++6 ImageMagick cuda-nvcc-12-8") {
		require.True(t, IsName(s), s)
	}
	for _, s := range []string{"", "--purge", "-o", "./x.deb", "a;b", "a b", "nvtop="} {
		require.False(t, IsName(s), s)
	}
	require.Empty(t, Wrong("nvtop=1:2.0~rc1-1"))
	for _, s := range []string{"nvtop=", "nvtop=-1", "cuda-drivers", "--purge"} {
		require.NotEmpty(t, Wrong(s), s)
	}
}

func TestPackagesOfTheDriver(t *testing.T) {
	for from, names := range map[string]string{
		"NVIDIA": `cuda cuda-12-8 cuda-drivers cuda-drivers-570 cuda-runtime-12-8 libcuda1=5 libnvidia-ml1:amd64 nvidia-open-570
			libnvidia-compute-570 kmod-nvidia-open-dkms nvidia-driver-cuda-libs libnvidia-ml libnvidia-cfg libnvidia-fbc libnvidia-gpucomp nvidia-kmod-common`,
		// All of the source nvidia-graphics-drivers and what it brings, Debian 12 and 13.
		"Debian": `firmware-nvidia-gsp libcuda1 libcudadebugger1 libegl-nvidia0 libgl1-nvidia-glvnd-glx libgles-nvidia1 libgles-nvidia2 libglx-nvidia0
			libnvcuvid1 libnvidia-allocator1 libnvidia-api1 libnvidia-cfg1 libnvidia-eglcore libnvidia-encode1 libnvidia-fbc1 libnvidia-glcore
			libnvidia-glvkspirv libnvidia-gpucomp libnvidia-ml1 libnvidia-ngx1 libnvidia-nvvm4 libnvidia-opticalflow1 libnvidia-pkcs11-openssl3
			libnvidia-ptxjitcompiler1 libnvidia-rtcore libnvoptix1 nvidia-alternative nvidia-cuda-mps nvidia-driver nvidia-driver-bin nvidia-driver-full
			nvidia-driver-libs nvidia-egl-common nvidia-egl-icd nvidia-kernel-dkms nvidia-kernel-source nvidia-kernel-support nvidia-legacy-check
			nvidia-libopencl1 nvidia-opencl-common nvidia-opencl-icd nvidia-powerd nvidia-smi nvidia-suspend-common nvidia-vdpau-driver
			nvidia-vulkan-common nvidia-vulkan-icd xserver-xorg-video-nvidia nvidia-support nvidia-installer-cleanup nvidia-kernel-common
			glx-alternative-nvidia nvidia-settings nvidia-xconfig nvidia-persistenced nvidia-modprobe libnvidia-tesla-535-cuda1
			nvidia-tesla-535-alternative libegl-nvidia-tesla-535-0 firmware-nvidia-tesla-535-gsp xserver-xorg-video-nvidia-tesla-535`,
		"Ubuntu": `libnvidia-gl-570 libnvidia-common-570 libnvidia-decode-570 libnvidia-encode-570 libnvidia-extra-570 libnvidia-fbc1-570 libnvidia-cfg1-570
			nvidia-utils-570 nvidia-compute-utils-570 nvidia-headless-no-dkms-570 nvidia-kernel-common-570-server nvidia-firmware-570 nvidia-dkms-570-open
			xserver-xorg-video-nvidia-570 linux-modules-nvidia-570-generic`,
		"SUSE":   `nvidia-compute-G06 nvidia-compute-utils-G06 nvidia-gl-G06 nvidia-video-G06 nvidia-utils-G06 nvidia-common-G06 nvidia-driver-G06-kmp-default nvidia-libXNVCtrl kernel-firmware-nvidia-gspx-G06`,
		"Fedora": `xorg-x11-drv-nvidia xorg-x11-drv-nvidia-cuda-libs akmod-nvidia kmod-nvidia nvidia-settings nvidia-modprobe`,
		"Arch":   `nvidia-utils nvidia-dkms nvidia-open`,
	} {
		for _, s := range strings.Fields(names) {
			require.True(t, IsDriver(s), "%s: %s", from, s)
		}
	}
	for _, s := range strings.Fields(`nvtop cuda-nvcc-12-8 cuda-toolkit-12-8 cuda-compat-12-8 cuda-nvml-dev-12-8 libnvjitlink-12-8 libnvjpeg-12-8
		libnvidia-container1 libnvidia-container-tools libnvidia-container-dev nvidia-container-toolkit nvidia-container-toolkit-base
		nvidia-cuda-toolkit nvidia-cuda-dev nvidia-cudnn libnvidia-ml-dev nvidia-profiler nvidia-visual-profiler libnccl2
		libglvnd0 libgl1 libegl1 libglx0 libvulkan1 ocl-icd-libopencl1 libxnvctrl0 nvidia-detect libcudart12`) {
		require.False(t, IsDriver(s), s)
	}
}
