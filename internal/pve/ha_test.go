package pve_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

func TestUnderHA(t *testing.T) {
	root := t.TempDir()
	require.False(t, pve.UnderHA(root, 101), "no HA at all")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/pve/ha"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/ha/resources.cfg"), []byte("vm: 100\n\tstate started\n\nct: 101\n\tcomment ct: 103\n\tstate started\n\nct: 1020\n"), 0o640))
	for vmid, want := range map[int]bool{100: false, 101: true, 102: false, 103: false, 1020: true} {
		require.Equal(t, want, pve.UnderHA(root, vmid), vmid)
	}
}
