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
	require.True(t, IsVersion("1:2.0~rc1-1"))
	require.False(t, IsVersion("-1"))
}

func TestPackagesOfTheDriver(t *testing.T) {
	for _, s := range strings.Fields(`cuda cuda-12-8 cuda-drivers cuda-drivers-570 cuda-runtime-12-8 libcuda1=5 libnvidia-ml1:amd64
		libnvidia-compute-570 nvidia-open-570 kmod-nvidia-open-dkms nvidia-compute-G06 nvidia-libXNVCtrl`) {
		require.True(t, IsDriver(s), s)
	}
	for _, s := range strings.Fields(`nvtop cuda-nvcc-12-8 cuda-toolkit-12-8 cuda-compat-12-8 libnvjitlink-12-8 libnvjpeg-12-8
		libnvidia-container1 nvidia-container-toolkit`) {
		require.False(t, IsDriver(s), s)
	}
}
