package cudapkg_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
)

func TestWhatAConfigurationMaySayIsWhatAStartTakes(t *testing.T) {
	for _, s := range strings.Fields(`12.8 13.10 11.0 12 12.8.1 12-8 0.5 100.1 auto`) {
		require.Equal(t, s == cudapkg.Auto || cudapkg.IsRelease(s), cuda.CheckToolkit(s) == nil, s)
	}
	for _, s := range strings.Fields(`nvtop nvtop=3.0.1-1+b2 x=1:2.0~rc1-1 libstdc++6 ImageMagick --purge -o ./x.deb a;b nvtop= nvtop=-1
		cuda cuda-12-8 cuda-drivers cuda-drivers-570 libcuda1=5 libnvidia-ml1 libnvidia-container1 nvidia-container-toolkit
		cuda-nvcc-12-8 nvidia-libXNVCtrl kmod-nvidia-open-dkms nvidia-compute-G06 cuda-compat-12-8`) {
		name, version, pinned := strings.Cut(s, "=")
		taken := cudapkg.IsName(name) && (!pinned || cudapkg.IsVersion(version)) && !cudapkg.IsDriver(s)
		require.Equal(t, taken, cuda.CheckPackages([]string{s}) == nil, s)
	}
}
