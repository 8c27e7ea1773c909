package cuda

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestOSReleaseIsReadAsHostileInput(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want OS
		err  string
	}{
		"debian":      {"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n", OS{ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"}, ""},
		"alma":        {"ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.5\"\n", OS{ID: "almalinux", Like: []string{"rhel", "centos", "fedora"}, Version: "9.5"}, ""},
		"sid":         {"ID=debian\n", OS{ID: "debian"}, ""},
		"quotes":      {"ID='x'\nPRETTY_NAME=\"a b\"\n", OS{ID: "x", Name: "a b"}, ""},
		"no newline":  {"ID=debian", OS{ID: "debian"}, ""},
		"control":     {"ID=debian\nPRETTY_NAME=\"a\x1b[2Jb\"\n", OS{ID: "debian", Name: `a\x1b[2Jb`}, ""},
		"zero width":  {"ID=debian\nPRETTY_NAME=\"a\u200bb\"\n", OS{ID: "debian", Name: `a\u200bb`}, ""},
		"traversal":   {"ID=debian\nVERSION_ID=../../x\n", OS{}, "VERSION_ID"},
		"path in id":  {"ID=a/b\n", OS{}, "no usable ID"},
		"empty":       {"", OS{}, "no usable ID"},
		"binary":      {"\x00\x01=\xff\xfe", OS{}, "no usable ID"},
		"lone quote":  {"ID=\"\n", OS{}, "no usable ID"},
		"too large":   {strings.Repeat("#", 65<<10), OS{}, "more than"},
		"upper":       {"ID=Debian\n", OS{}, "no usable ID"},
		"long":        {"ID=" + strings.Repeat("a", 65), OS{}, "no usable ID"},
		"url in vers": {"ID=a\nVERSION_ID=\"1 2\"\n", OS{}, "VERSION_ID"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseOSRelease([]byte(c.text))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func FuzzOSReleaseNeverMakesAnUnsafeName(f *testing.F) {
	f.Add([]byte("ID=debian\nVERSION_ID=\"12\"\n"))
	f.Add([]byte("ID=\"a\\\nVERSION_ID='\nPRETTY_NAME=\"\\\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := ParseOSRelease(text)
		if err != nil {
			return
		}
		if strings.ContainsAny(FindDistro(o).Folder+o.String(), "\n\x1b\x00") || strings.Contains(FindDistro(o).Folder, "/") {
			t.Fatalf("%q", o)
		}
	})
}

func TestEveryServedSystemHasItsFolder(t *testing.T) {
	for _, c := range []struct{ id, version, like, folder, tool string }{
		{"debian", "11", "", "debian11", toolApt},
		{"debian", "12", "", "debian12", toolApt},
		{"debian", "13", "", "debian13", toolApt},
		{"ubuntu", "20.04", "debian", "ubuntu2004", toolApt},
		{"ubuntu", "22.04", "debian", "ubuntu2204", toolApt},
		{"ubuntu", "24.04", "debian", "ubuntu2404", toolApt},
		{"ubuntu", "26.04", "debian", "ubuntu2604", toolApt},
		{"almalinux", "9.5", "rhel", "rhel9", toolDnf},
		{"rocky", "8.10", "rhel", "rhel8", toolDnf},
		{"centos", "10", "rhel", "rhel10", toolDnf},
		{"ol", "9.4", "fedora", "rhel9", toolDnf},
		{"rhel", "8.8", "fedora", "rhel8", toolDnf},
		{"fedora", "42", "", "fedora42", toolDnf},
		{"opensuse-leap", "15.6", "suse opensuse", "opensuse15", toolZypper},
		{"sles", "15.6", "suse", "sles15", toolZypper},
		{"opensuse-leap", "16.0", "suse opensuse", "suse16", toolZypper},
		{"sles", "16.0", "suse", "suse16", toolZypper},
		{"fedora", "43", "", "fedora43", toolDnf},
		{"amzn", "2023", "centos rhel fedora", "amzn2023", toolDnf},
	} {
		o := OS{ID: c.id, Version: c.version, Like: strings.Fields(c.like)}
		require.Equal(t, Distro{c.folder, c.tool, true}, FindDistro(o), "%v", o)
		url, _, err := repoURL(o, "x86_64", "")
		require.NoError(t, err)
		require.Equal(t, "https://developer.download.nvidia.com/compute/cuda/repos/"+c.folder+"/x86_64/", url)
	}
	for _, c := range []struct{ id, version, like, tool string }{
		{"debian", "10", "", toolApt},
		{"debian", "", "", toolApt},
		{"ubuntu", "25.04", "debian", toolApt},
		{"fedora", "38", "", toolDnf},
		{"rhel", "7.9", "fedora", toolDnf},
		{"linuxmint", "22", "ubuntu debian", toolApt},
		{"opensuse-tumbleweed", "20260101", "opensuse suse", toolZypper},
		{"alpine", "3.20", "", ""},
		{"arch", "", "", ""},
	} {
		o := OS{ID: c.id, Version: c.version, Like: strings.Fields(c.like)}
		require.False(t, FindDistro(o).Served, "%v", o)
		require.Equal(t, c.tool, FindDistro(o).Tool, "%v", o)
		_, _, err := repoURL(o, "x86_64", "")
		require.ErrorContains(t, err, "Debian 11, 12, 13; Ubuntu 20.04")
		require.NotEmpty(t, hint.Of(err))
	}
}

func TestRepositoryURL(t *testing.T) {
	d12 := OS{ID: "debian", Version: "12"}
	u24 := OS{ID: "ubuntu", Version: "24.04"}
	slowroll := OS{ID: "opensuse-slowroll", Version: "20260101", Like: []string{"opensuse", "suse"}}
	mint := OS{ID: "linuxmint", Version: "22", Like: []string{"ubuntu", "debian"}}
	for _, c := range []struct {
		name     string
		os       OS
		arch     string
		override string
		want     string
		err      []string
	}{
		{"arm", d12, "aarch64", "", repoBase + "debian12/sbsa/", nil},
		{"unknown machine", d12, "riscv64", "", "", []string{"riscv64"}},
		{"own", u24, "x86_64", repoBase + "ubuntu2404/x86_64/", repoBase + "ubuntu2404/x86_64/", nil},
		{"no slash", u24, "x86_64", repoBase + "ubuntu2404/x86_64", repoBase + "ubuntu2404/x86_64/", nil},
		{"slashes", u24, "x86_64", repoBase + "ubuntu2404/x86_64///", repoBase + "ubuntu2404/x86_64/", nil},
		{"host in capitals", u24, "x86_64", "https://MIRROR.example/cuda", "https://mirror.example/cuda/", nil},
		{"another system", d12, "x86_64", repoBase + "ubuntu2404/x86_64/", "", []string{"ubuntu2404", "debian12"}},
		{"another version", u24, "x86_64", repoBase + "ubuntu2204/x86_64/", "", []string{"ubuntu2204", "ubuntu2404"}},
		{"another package tool", mint, "x86_64", repoBase + "rhel9/x86_64/", "", []string{"rhel9", "linuxmint22"}},
		{"kin of one not served", mint, "x86_64", repoBase + "ubuntu2404/x86_64/", repoBase + "ubuntu2404/x86_64/", nil},
		{"kin by another name", slowroll, "x86_64", repoBase + "suse16/x86_64/", repoBase + "suse16/x86_64/", nil},
		{"another machine", d12, "x86_64", repoBase + "debian12/sbsa/", "", []string{"sbsa", "x86_64"}},
		{"mirror", d12, "x86_64", "http://mirror.local:8080/nvidia/", "http://mirror.local:8080/nvidia/", nil},
		{"template", d12, "aarch64", "https://mirror.local/{distro}/{arch}", "https://mirror.local/debian12/sbsa/", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := repoURL(c.os, c.arch, c.override)
			if c.err == nil {
				require.NoError(t, err)
				require.Equal(t, c.want, got)
				return
			}
			for _, part := range c.err {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestDriverPackagesAreTold(t *testing.T) {
	for _, n := range strings.Fields(`cuda cuda-12-8 cuda-13-0 cuda-drivers cuda-drivers-570 cuda-runtime-12-8 nvidia-open nvidia-open-570
		nvidia-driver nvidia-driver-570 nvidia-driver-570-open nvidia-driver-cuda nvidia-driver-libs nvidia-kernel-dkms nvidia-kernel-open-dkms nvidia-kernel-support
		nvidia-kernel-common-570 nvidia-smi nvidia-alternative nvidia-persistenced nvidia-modprobe libcuda1 libcuda1:i386 libcuda1=570.1-1
		libnvidia-compute-570 libnvidia-compute libnvidia-cfg1-570 libnvidia-common-570 libnvidia-ml1 libnvidia-ptxjitcompiler1 libnvidia-encode-570 libnvidia-gl-570
		libnvidia-glcore libnvidia-nvvm4 libnvidia-ml libnvidia-cfg libnvidia-fbc libnvidia-gpucomp libnvcuvid1 libnvoptix1 libcudadebugger1
		nvidia-utils-570 nvidia-compute-utils-570 nvidia-headless-570 nvidia-dkms-570 nvidia-firmware-570-570.124.06 firmware-nvidia-gsp xserver-xorg-video-nvidia
		kmod-nvidia-open-dkms nvidia-compute-G06 nvidia-libXNVCtrl`) {
		require.True(t, cudapkg.IsDriver(n), n)
	}
	for _, n := range strings.Fields(`cuda-toolkit cuda-toolkit-12-8 cuda-toolkit-13 cuda-nvcc-12-8 cuda-cudart-dev-12-8 cuda-cudart-12-8 cuda-libraries-12-8 cuda-keyring
		cuda-compat-12-8 cuda-toolkit-config-common cuda-toolkit-12-8-config-common
		libnvjitlink-12-8 libnvjpeg-12-8 libnvvm-13-0 libnvptxcompiler-13-0 libnvfatbin-12-8 libnpp-12-8 libcublas-12-8 libcufft-12-8
		nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container1 libnvidia-container-tools libnvidia-container-dev
		nvidia-cuda-toolkit nvtop build-essential libcudnn9-cuda-12`) {
		require.False(t, cudapkg.IsDriver(n), n)
	}
	require.NoError(t, checkPackages([]string{"nvtop", "cuda-nvcc-12-8", "libstdc++6", "x=1:2.0~rc1-1"}))
	for _, n := range []string{"-o", "--reinstall", "", "a b", "a;b", "./x.deb", "x\ny", "cuda-drivers", "libcuda1=5"} {
		require.Error(t, checkPackages([]string{n}), "%q", n)
	}
}

func TestAnOlderDriverIsRefusedWithTheOneNeeded(t *testing.T) {
	for _, c := range []struct {
		release, pkg string
		driver       version.Driver
		err, note    string
	}{
		{"12.8", "12.8.0-1", "570.26", "", ""},
		{"12.8", "12.8.1-1", "570.124.06", "", ""},
		{"12.8", "12.8.1-1", "570.86.16", "", "needs 570.124.06"},
		{"12.8", "12.8.1-1", "535.54.03", "", "with limits"},
		{"12.8", "", "525.60.13", "", "with limits"},
		{"12.8", "", "525.60.11", "needs driver 525.60.13", ""},
		{"12.8", "", "470.256.02", "needs driver 525.60.13", ""},
		{"13.0", "", "575.57.08", "needs driver 580.65.06", ""},
		{"13.3", "", "580.142", "", "needs 610.43.02"},
		{"13.4", "13.4.1-1", "580.142", "needs driver 610.43.02", ""},
		{"13.5", "13.5.0-1", "610.10", "", "newer than this program knows"},
		{"14.0", "", "595.71.05", "needs driver 610.43.02", ""},
		{"14.0", "", "610.43.01", "", "newer than this program knows"},
		{"14.0", "", "650.10", "", "newer than this program knows"},
		{"11.0", "", "450.51.05", "", ""},
		{"11.0", "", "450.51.04", "needs driver 450.51.05", ""},
		{"11.8", "", "580.76.05", "", ""},
		{"10.2", "", "450.51.04", "", ""},
		{"12.8", "", "", "", ""},
	} {
		note, err := checkDriver(available{c.release, c.pkg}, c.driver)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, "%+v", c)
			require.ErrorContains(t, err, string(c.driver))
			require.NotEmpty(t, hint.Of(err))
			continue
		}
		require.NoError(t, err, "%+v", c)
		if c.note == "" {
			require.Empty(t, note, "%+v", c)
		} else {
			require.Contains(t, note, c.note, "%+v", c)
		}
	}
}

func TestAutoTakesTheNewestThatTheDriverFullySupports(t *testing.T) {
	have := collect([][2]string{
		{"cuda-toolkit-12-6", "12.6.3-1"}, {"cuda-toolkit-12-8", "12.8.0-1"}, {"cuda-toolkit-12-8", "12.8.1-1"}, {"cuda-toolkit-12-9", "12.9.1-1"},
		{"cuda-toolkit-13-0", "13.0.2-1"}, {"cuda-toolkit-13-3", "13.3.0-1"}, {"cuda-toolkit-13-9", "13.9.0-1"},
		{"cuda-toolkit", "13.3.0-1"}, {"cuda-toolkit-13", "13.3.0-1"}, {"cuda-toolkit-12-8-config-common", "1"},
	})
	require.Len(t, have, 6)
	for driver, want := range map[version.Driver]string{
		"560.35.05": "12.6", "570.86.16": "12.6", "570.124.06": "12.8", "575.57.08": "12.9", "575.51.03": "12.8",
		"580.65.06": "12.9", "580.95.05": "13.0", "580.142": "13.0", "610.43.02": "13.3", "700.1": "13.3",
	} {
		got, err := choose(cudapkg.Auto, driver, "", have)
		require.NoError(t, err, driver)
		require.Equal(t, want, got.Release, driver)
	}
	behind := collect([][2]string{{"cuda-toolkit-13-5", "13.5.0-1"}, {"cuda-toolkit-13-4", "13.4.1-1"}, {"cuda-toolkit-13-4", "13.4.2-1"}})
	got, err := choose(cudapkg.Auto, "700.1", "", behind)
	require.NoError(t, err, "a repository that begins behind the table")
	require.Equal(t, available{"13.4", "13.4.2-1"}, got)
	require.Zero(t, got.update(), "a build is no update")
	_, err = choose(cudapkg.Auto, "580.142", "", behind)
	require.ErrorContains(t, err, "no CUDA toolkit that driver 580.142 fully supports; it has 13.5, 13.4")
	_, err = choose(cudapkg.Auto, "535.54.03", "", have)
	require.ErrorContains(t, err, "supports 12.2")
	_, err = choose(cudapkg.Auto, "", "", have)
	require.Error(t, err)
	_, err = choose("12.7", "580.142", "", have)
	require.ErrorContains(t, err, "13.9, 13.3, 13.0, 12.9, 12.8, 12.6")
	_, err = choose("12.8", "580.142", "", nil)
	require.ErrorContains(t, err, "it has none")
}

func TestAutoLeavesOutWhatCannotCompileForTheOldestGPU(t *testing.T) {
	have := collect([][2]string{{"cuda-toolkit-12-8", "12.8.1-1"}, {"cuda-toolkit-12-9", "12.9.1-1"}, {"cuda-toolkit-13-0", "13.0.2-1"}})
	for capability, want := range map[string]string{"5.2": "12.9", "6.1": "12.9", "7.0": "12.9", "7.5": "13.0", "8.9": "13.0", "12.0": "13.0", "": "13.0"} {
		got, err := choose(cudapkg.Auto, "580.142", capability, have)
		require.NoError(t, err, capability)
		require.Equal(t, want, got.Release, capability)
	}
	got, err := choose("13.0", "580.142", "6.1", have)
	require.NoError(t, err, "asked for by name")
	require.Equal(t, "13.0", got.Release)
	_, err = choose(cudapkg.Auto, "580.142", "6.1", have[:1])
	require.ErrorContains(t, err, "no CUDA toolkit before 13.0, as a GPU of compute capability 6.1 needs; it has 13.0")
	require.NotEmpty(t, hint.Of(err))
}

func TestNvccVersion(t *testing.T) {
	release, full, err := parseNvcc([]byte("nvcc: NVIDIA (R) Cuda compiler driver\nCopyright (c) 2005-2022 NVIDIA Corporation\nBuilt on Wed_Sep_21_10:33:58_PDT_2022\nCuda compilation tools, release 11.8, V11.8.89\nBuild cuda_11.8.r11.8/compiler.31833905_0\n"))
	require.NoError(t, err)
	require.Equal(t, "11.8 11.8.89", release+" "+full)
	_, _, err = parseNvcc([]byte("hello\x1b[2J"))
	require.ErrorContains(t, err, "hello")
	require.NotContains(t, err.Error(), "\x1b")
}
