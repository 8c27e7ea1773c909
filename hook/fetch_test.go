package hook

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
)

func TestAllProcessorsUnpack(t *testing.T) {
	runtime.GOMAXPROCS(1) // as the snippet starts the program
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	c, _ := configOf(t)
	r := newRun(Event{VMID: 101, Phase: PhasePostStart}, Options{Config: c, Host: host.Host{Root: t.TempDir()}})
	r.settings.Cache.Dir = t.TempDir()
	_, err := r.fetch(t.Context())
	require.Error(t, err, "no version is wanted")
	require.Greater(t, runtime.GOMAXPROCS(0), min(1, runtime.NumCPU()-1))
}
