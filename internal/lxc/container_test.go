package lxc_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o077) // a hook inherits whatever its caller has
	os.Exit(m.Run())
}

// open starts a container and opens it.
func open(t *testing.T, spec lab.Spec) (*lab.Container, *lxc.Container) {
	t.Helper()
	at := labtest.Start(t, spec)
	c, err := lxc.Open(t.Context(), at.LXCPath, at.VMID)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return at, c
}

// self is this test binary with one test to run, as another process.
func self(t *testing.T, test string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// both runs a test in a privileged and in an unprivileged container.
func both(t *testing.T, test func(t *testing.T, at *lab.Container, c *lxc.Container)) {
	for name, privileged := range map[string]bool{"privileged": true, "unprivileged": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, c := open(t, lab.Spec{VMID: 101, Privileged: privileged})
			test(t, at, c)
		})
	}
}

func TestOpenTellsWhatTheContainerIs(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		pid, err := at.Pid(t.Context())
		require.NoError(t, err)
		require.Equal(t, pid, c.Pid())
		require.Equal(t, at.Spec.Privileged, c.Privileged())
		require.True(t, c.Alive())
	})
}

func TestOpenOfWhatDoesNotRunIsErrNotRunning(t *testing.T) {
	l := labtest.Open(t)
	_, err := lxc.Open(t.Context(), l.Path, 404)
	require.ErrorIs(t, err, lxc.ErrNotRunning)
	_, err = l.Container(t.Context(), lab.Spec{VMID: 101})
	require.NoError(t, err)
	_, err = lxc.Open(t.Context(), l.Path, 101)
	require.ErrorIs(t, err, lxc.ErrNotRunning)
}

func TestAfterAStopEverythingAnswersErrNotRunning(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101})
	require.NoError(t, at.Stop())
	require.NoError(t, at.Start(t.Context()), "another init: still not the one that was opened")
	require.False(t, c.Alive())
	_, err := c.Stat("/etc")
	require.ErrorIs(t, err, lxc.ErrNotRunning)
	require.ErrorIs(t, c.WriteFile("/root/f", nil, 0o644), lxc.ErrNotRunning)
	_, err = c.Run(t.Context(), lxc.Cmd{Args: []string{"true"}, Timeout: time.Second})
	require.ErrorIs(t, err, lxc.ErrNotRunning)
	require.ErrorIs(t, c.MountTree(t.Context(), t.TempDir(), "/mnt"), lxc.ErrNotRunning)
	n, err := c.KillStrays(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}

func BenchmarkOpen(b *testing.B) {
	at := labtest.Start(b, lab.Spec{VMID: 101})
	for b.Loop() {
		c, err := lxc.Open(b.Context(), at.LXCPath, 101)
		require.NoError(b, err)
		c.Close()
	}
}

func BenchmarkStat(b *testing.B) {
	at := labtest.Start(b, lab.Spec{VMID: 101})
	c, err := lxc.Open(b.Context(), at.LXCPath, 101)
	require.NoError(b, err)
	defer c.Close()
	for b.Loop() {
		_, err := c.Stat("/etc/os-release")
		require.NoError(b, err)
	}
}
