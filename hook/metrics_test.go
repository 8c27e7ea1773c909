package hook_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

func TestPrometheusIsToldOfEveryRun(t *testing.T) {
	n := newNode(t, newer)
	dir := n.Path("collector")
	n.Metrics = filepath.Join(dir, "hook.prom")
	n.configure("")
	n.start(lab.Spec{VMID: 101})

	n.run(0, "101", "post-start")
	require.NoDirExists(t, dir, "no node exporter is here")
	require.NoError(t, os.Mkdir(dir, 0o755))
	n.run(0, "101", "post-start")
	told := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "hook.prom"))
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, told(), `pve_nvidia_hook_last_run_success{vmid="101"} 1`)
	require.Contains(t, told(), `pve_nvidia_hook_driver_info{vmid="101",wanted="`+newer+`",installed="`+newer+`",shared="no"} 1`)
	require.Contains(t, told(), `pve_nvidia_hook_host_module_info{version="`+newer+`"} 1`)

	require.NoError(t, n.Module(""))
	n.run(1, "101", "post-start")
	require.Contains(t, told(), `pve_nvidia_hook_last_run_success{vmid="101"} 0`)
	require.NotContains(t, told(), `host_module_info{`, "none is loaded any more")
}
