package driver

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// In a privileged container nvidia-smi makes /dev/nvidiactl itself, cannot open it,
// and ends with another status than in one that may make no node.
func TestALoneControlNodeIsNoGPU(t *testing.T) {
	for name, spec := range map[string]lab.Spec{"privileged": {Privileged: true}, "unprivileged": {}} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, spec)
			g.install(sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Utility))
			g.sh("echo nodes >/etc/sample-nvidia-smi")
			for range 2 { // the second finds the node that the first has left
				err := SMI(t.Context(), g.Container, "550.163.01")
				require.ErrorContains(t, err, "the container has no GPU: there is no /dev/nvidia0")
				require.Contains(t, hint.Of(err), "--gpus all")
			}
			_, err := g.Lstat("/dev/nvidiactl")
			require.Equal(t, spec.Privileged, err == nil)
		})
	}
	require.ErrorContains(t, NoNode(false), "it was enabled without --gpus")
	g := newGuest(t, lab.Spec{})
	g.install(sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.Utility))
	g.sh("echo 255 >/etc/sample-nvidia-smi; touch /dev/nvidia0")
	require.ErrorContains(t, SMI(t.Context(), g.Container, "550.163.01"), "unknown error", "a GPU is there: that is not the reason")
}
