package hook

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsLeftToTheUnit(t *testing.T) {
	driver := []Step{StepFetch, StepInstall, StepVerify, StepRecord}
	toolkit := []Step{StepToolkit, StepRecord}
	both := append(append([]Step{}, driver...), toolkit...)
	for _, c := range []struct {
		setting          string
		plan, here, unit []Step
	}{
		{"auto", driver, driver, nil},
		{"auto", toolkit, []Step{}, toolkit},
		{"auto", both, driver, toolkit},
		{"always", driver, nil, driver},
		{"always", both, nil, both},
		{"never", both, both, nil},
		{"never", driver, driver, nil},
	} {
		here, unit := split(c.plan, c.setting)
		require.Equal(t, c.here, here, "%s %v", c.setting, c.plan)
		require.Equal(t, c.unit, unit, "%s %v", c.setting, c.plan)
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
