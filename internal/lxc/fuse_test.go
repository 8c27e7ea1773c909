package lxc_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// Not parallel: it changes how patient the package is.
func TestAFileSystemThatNeverAnswersIsCutOff(t *testing.T) {
	for name, try := range map[string]func(*lxc.Container) error{
		"stat":  func(c *lxc.Container) error { _, err := c.Stat("/srv/wedge/x"); return err },
		"read":  func(c *lxc.Container) error { _, err := c.ReadFile("/srv/wedge/x", 100); return err },
		"list":  func(c *lxc.Container) error { _, err := c.ReadDir("/srv/wedge", 100); return err },
		"write": func(c *lxc.Container) error { return c.WriteFile("/srv/wedge/x", []byte("x"), 0o644) },
		"mount": func(c *lxc.Container) error {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			return c.UnmountTree(ctx, "/srv/wedge/x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			at, c := open(t, lab.Spec{VMID: 101, Privileged: true})
			defer lxc.StuckAfter(200 * time.Millisecond)()
			require.NoError(t, at.Wedge(t.Context(), "/srv/wedge"))
			ended := make(chan error, 1)
			go func() { ended <- try(c) }()
			select {
			case err := <-ended:
				require.Error(t, err)
			case <-time.After(10 * time.Second):
				c.AbortFUSE() // else nothing ends this process
				t.Fatal("it does not end")
			}
		})
	}
}
