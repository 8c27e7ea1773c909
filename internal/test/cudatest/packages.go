package cudatest

import (
	"fmt"
	"strings"
)

// Keyring stands for NVIDIA's cuda-keyring: the key, a list with url and the pin
// that NVIDIA ships. distro and arch are the names of NVIDIA's folders.
func Keyring(url, distro, arch string, key *Key) Package {
	list := fmt.Sprintf("/etc/apt/sources.list.d/cuda-%s-%s.list", distro, arch)
	const pin = "/etc/apt/preferences.d/cuda-repository-pin-600"
	return Package{
		Name: "cuda-keyring", Version: "1.1-1",
		Files: map[string]string{
			"/usr/share/keyrings/cuda-archive-keyring.gpg": string(key.Public),
			list: "deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] " + url + " /\n",
			pin:  "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n",
		},
		Conffiles: []string{list, pin},
	}
}

// Nvcc is what nvcc --version of a version such as 12.8.93 prints.
func Nvcc(version string) string {
	release := strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
	return fmt.Sprintf(`nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2025 NVIDIA Corporation
Built on Fri_Feb_21_20:23:50_PST_2025
Cuda compilation tools, release %s, V%s
Build cuda_%s.r%s/compiler.35583870_0
`, release, version, release, release)
}

// Toolkit returns the packages of a toolkit release: the whole, the compiler and
// a library, and the meta-packages that drag the driver in. version is the
// toolkit's, such as 12.8.1, nvcc the compiler's, driver the driver's branch.
func Toolkit(version, nvcc, driver string) []Package {
	release := strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
	dash := strings.ReplaceAll(release, ".", "-")
	bin := "/usr/local/cuda-" + release + "/bin/nvcc"
	return []Package{
		{Name: "cuda-toolkit-" + dash, Version: version + "-1", Depends: fmt.Sprintf("cuda-nvcc-%s (>= %s), libnvjitlink-%s, cuda-toolkit-config-common", dash, nvcc, dash)},
		{Name: "cuda-nvcc-" + dash, Version: nvcc + "-1", Files: map[string]string{bin: "#!/bin/sh\ncat <<'X'\n" + Nvcc(nvcc) + "X\n"}, Exec: []string{bin}},
		{Name: "libnvjitlink-" + dash, Version: nvcc + "-1", Files: map[string]string{"/usr/local/cuda-" + release + "/lib64/libnvJitLink.so": "library\n"}},
		{Name: "cuda-" + dash, Version: version + "-1", Depends: "cuda-toolkit-" + dash + ", cuda-runtime-" + dash},
		{Name: "cuda-runtime-" + dash, Version: version + "-1", Depends: "cuda-drivers (>= " + driver + ")"},
	}
}

// Rest returns the packages of the repository that belong to no release.
func Rest() []Package {
	return []Package{
		{Name: "cuda-toolkit-config-common", Version: "13.0.1-1"},
		{Name: "nvidia-container-toolkit", Version: "1.17.8-1", Depends: "libnvidia-container1", Files: map[string]string{"/usr/bin/nvidia-ctk": "program\n"}},
		{Name: "libnvidia-container1", Version: "1.17.8-1"},
		{Name: "cuda-drivers", Version: "580.82.07-1", Depends: "nvidia-open-570"},
		{Name: "nvidia-open-570", Version: "570.124.06-1", Depends: "libcuda1"},
		{Name: "libcuda1", Version: "570.124.06-1", Files: map[string]string{"/usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06": "driver\n"}},
		{Name: "needs-driver", Version: "1.0", Depends: "libcuda1 (>= 500)"},
		{Name: "plain-tool", Version: "1.0", Depends: "libnvjitlink-12-8"},
	}
}
