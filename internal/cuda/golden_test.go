package cuda

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// Plans of each form; what the real tools print is read in rpm_lab_test.go.

const dnf4Plan = `Last metadata expiration check: 0:00:01 ago.
Dependencies resolved.
================================================================================
 Package                 Arch   Version      Repository                    Size
================================================================================
Installing:
 cuda-toolkit-12-8       x86_64 12.8.1-1     pve-nvidia-hook-cuda         3.1 k
Installing dependencies:
 cuda-nvcc-12-8          x86_64 12.8.93-1    pve-nvidia-hook-cuda          68 M
 cuda-toolkit-12-8-config-common
                         noarch 12.8.90-1    pve-nvidia-hook-cuda         7.6 k
 gcc                     x86_64 11.5.0-5.el9 appstream                     32 M
Upgrading:
 libgcc                  x86_64 11.5.0-5.el9 baseos                        84 k
     replacing  libold.x86_64 1.0-1

Transaction Summary
================================================================================
Install  4 Packages
Upgrade  1 Package

Total download size: 3.0 G
Operation aborted.
`

const dnf5Plan = `Updating and loading repositories:
Repositories loaded.
Package                  Arch   Version    Repository              Size
Installing:
 cuda-toolkit-12-8       x86_64 12.8.1-1   pve-nvidia-hook-cuda 3.1 KiB
Installing dependencies:
 nvidia-driver-cuda-libs x86_64 3:570.1-1  rpmfusion            3.1 KiB
Removing:
 old                     x86_64 1-1        @System              1.0 KiB

Transaction Summary:
 Installing:        2 packages
 Removing:          1 package

Operation aborted by the user.
`

const zypperPlan = `<?xml version='1.0'?>
<stream>
<message type="info">Loading repository data...</message>
<install-summary download-size="3000000000" space-usage-diff="7000000000" packages-to-change="2">
<to-install>
<solvable type="package" name="cuda-toolkit-12-8" edition="12.8.1-1" arch="x86_64" summary="CUDA Toolkit 12.8 meta-package">
<description>Meta-package of all that is &quot;CUDA&quot;.</description></solvable>
<solvable type="package" name="cuda-nvcc-12-8" edition="12.8.93-1" arch="x86_64" repository="NVIDIA CUDA"/>
</to-install>
<to-upgrade>
<solvable type="package" name="libgcc_s1" edition="14" edition-old="13" arch="x86_64"/>
</to-upgrade>
<to-remove><solvable type="package" name="old" edition="1" arch="x86_64"/></to-remove>
</install-summary>
</stream>
`

func TestRpmPlansAreRead(t *testing.T) {
	require.Equal(t, plan{
		fresh:  []string{"cuda-toolkit-12-8", "cuda-nvcc-12-8", "cuda-toolkit-12-8-config-common", "gcc"},
		newer:  []string{"libgcc"},
		remove: []string{"libold"},
	}, parseDnf(dnf4Plan))
	p := parseDnf(dnf5Plan)
	require.Equal(t, plan{fresh: []string{"cuda-toolkit-12-8", "nvidia-driver-cuda-libs"}, remove: []string{"old"}}, p)
	require.ErrorContains(t, judgePlan(p, []string{"x"}), "driver package nvidia-driver-cuda-libs")
	require.True(t, parseDnf("Nothing to do.\n").empty())

	p = parseZypper(zypperPlan)
	require.Equal(t, plan{fresh: []string{"cuda-toolkit-12-8", "cuda-nvcc-12-8"}, newer: []string{"libgcc_s1"}, remove: []string{"old"}, fetch: 3e9, disk: 7e9}, p)
	require.ErrorContains(t, judgePlan(p, []string{"x"}), "would remove old")
	require.True(t, parseZypper("<stream/>").empty())

	key, err := parseKeyName([]byte("[cuda-rhel9-x86_64]\nname=cuda-rhel9-x86_64\nbaseurl=https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64\nenabled=1\ngpgcheck=1\ngpgkey=https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64/D42D0685.pub\n"))
	require.NoError(t, err)
	require.Equal(t, "D42D0685.pub", key)
	_, err = parseKeyName([]byte("<html>gpgkey=</html>"))
	require.Error(t, err)
}

// zypper's manual names them; the others end in tests on the real one.
func TestWhatZypperOnlyInformsOfIsNoFailure(t *testing.T) {
	for code, says := range map[int]string{0: "", 102: "", 103: "", 106: "skipped a repository", 107: "a package's script failed"} {
		log := &logged{t: t}
		require.True(t, (&zypper{rpm{job: &job{log: log}}}).good(output{code: code}), code)
		require.True(t, says == "" || log.has(says))
	}
	for _, code := range []int{1, 4, 7, 8, 104, 105} {
		require.False(t, (&zypper{rpm{job: &job{log: &logged{t: t}}}}).good(output{code: code}), code)
	}
}

func TestWhatIsWrittenForApt(t *testing.T) {
	golden(t, "apt.golden", "== "+pinFile+"\n"+pinText()+"== "+profileFile+"\n"+profileText("12.8"))
}
