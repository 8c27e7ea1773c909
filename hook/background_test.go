package hook

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheToolkitIsAPartOfItsOwn(t *testing.T) {
	driver := []Step{StepFetch, StepInstall, StepVerify, StepRecord}
	toolkit := []Step{StepToolkit, StepRecord}
	for _, c := range []struct{ plan, driver, toolkit []Step }{
		{driver, driver, nil},
		{toolkit, []Step{}, toolkit},
		{slices.Concat(driver, toolkit), driver, toolkit},
		{nil, nil, nil},
	} {
		gotDriver, gotToolkit := driverAndToolkit(c.plan)
		require.Equal(t, c.driver, gotDriver, c.plan)
		require.Equal(t, c.toolkit, gotToolkit, c.plan)
	}
}

func TestTheUnitGetsWhatItNeedsAndNobodyElseReadsIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "101.env")
	require.NoError(t, writeEnv(file, []string{
		"PATH=/bin", "https_proxy=http://u:p$a`b\"c\\d@proxy:3128", "PVE_NVIDIA_HOOK_CONFIG=/etc/x y.toml",
		"HOME=/root", "LD_PRELOAD=/tmp/x.so", "NO_PROXY=a\nPATH=/tmp", "PVE_NVIDIA_HOOK_BACKGROUND=0",
	}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, `PATH="/bin"
https_proxy="http://u:p\$a`+"\\`"+`b\"c\\d@proxy:3128"
PVE_NVIDIA_HOOK_CONFIG="/etc/x y.toml"
PVE_NVIDIA_HOOK_BACKGROUND=1
`, string(text))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
}
