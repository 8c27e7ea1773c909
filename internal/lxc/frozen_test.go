package lxc_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// A process that is started in a frozen cgroup stops before its first instruction.
func TestAFrozenContainerHoldsNoCommandUpForLongerThanItsDeadline(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	own, err := c.Cgroup()
	require.NoError(t, err)
	freeze := filepath.Join(filepath.Dir(own), "cgroup.freeze")
	require.NoError(t, os.WriteFile(freeze, []byte("1"), 0))
	t.Cleanup(func() { _ = os.WriteFile(freeze, []byte("0"), 0) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	endsWithin(t, 8*time.Second, func() {
		_, err := c.Run(t.Context(), lxc.Cmd{Args: []string{"true"}, Timeout: time.Second})
		require.ErrorIs(t, err, lxc.ErrDeadline)
		require.Contains(t, hint.Of(err), "the container is frozen")
		_, err = c.Run(ctx, lxc.Cmd{Args: []string{"true"}, Timeout: time.Minute})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	require.Empty(t, leaves(t, c))
	time.AfterFunc(300*time.Millisecond, func() { _ = os.WriteFile(freeze, []byte("0"), 0) })
	res, err := c.Run(t.Context(), shell("echo thawed"))
	require.NoError(t, err)
	require.Equal(t, "thawed\n", string(res.Stdout))
	_, err = c.Run(t.Context(), lxc.Cmd{Args: []string{"sleep", "60"}, Timeout: time.Second})
	require.ErrorIs(t, err, lxc.ErrDeadline)
	require.Empty(t, hint.Of(err))
}
