package lxc_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// Not parallel: it changes how patient the package is.
func TestAFileSystemThatNeverAnswersIsCutOff(t *testing.T) {
	for name, try := range map[string]func(*lxc.Container) error{
		"read of what can be opened": func(c *lxc.Container) error {
			f, err := c.OpenFile("/srv/wedge/x")
			if err != nil {
				return nil // it must fail later than that
			}
			defer f.Close()
			_, err = f.Read(make([]byte, 10))
			return err
		},
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
			wedge := at.Wedge
			if name == "read of what can be opened" {
				wedge = at.WedgeReads
			}
			require.NoError(t, wedge(t.Context(), "/srv/wedge"))
			ended := make(chan error, 1)
			go func() { ended <- try(c) }()
			select {
			case err := <-ended:
				require.Error(t, err)
			case <-time.After(10 * time.Second):
				_ = at.Stop() // its server ends with it; else nothing ends this process
				t.Fatal("it does not end")
			}
		})
	}
}

// Each read of it is answered in time, and all of them would take seven minutes.
func TestAFileThatDripsIsGivenUp(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101, Privileged: true})
	defer lxc.StuckAfter(200 * time.Millisecond)()
	require.NoError(t, at.Drip(t.Context(), "/srv/drip"))
	f, err := c.OpenFile("/srv/drip/x")
	require.NoError(t, err)
	n, err := f.Read(make([]byte, 10))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	began := time.Now()
	_, err = io.Copy(io.Discard, f)
	require.ErrorContains(t, err, "its FUSE file system takes more than")
	// The server does not answer to that it is closed either.
	require.Error(t, f.Close())
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestAReadThatIsNeverAnsweredEndsWithItsContext(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := lxc.Open(ctx, at.LXCPath, at.VMID)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, at.WedgeReads(t.Context(), "/srv/wedge"))
	ended := make(chan error, 1)
	go func() {
		_, err := c.ReadFile("/srv/wedge/x", 100)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("it ended by itself: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	select {
	case err := <-ended:
		require.Error(t, err)
	case <-time.After(10 * time.Second):
		_ = at.Stop()
		t.Fatal("it does not end")
	}
}

func TestASlowDiskIsNoFUSE(t *testing.T) {
	task := t.TempDir()
	require.False(t, lxc.Waits(filepath.Join(task, "none")), "that thread has ended")
	require.True(t, lxc.Waits(task), "a kernel that shows no stacks")
	for stack, want := range map[string]bool{
		"": true, // nothing is known
		"[<0>] jbd2_log_wait_commit+0xd1/0x130\n[<0>] ext4_sync_file+0x1a1/0x380\n":         false,
		"[<0>] request_wait_answer+0x16f/0x2a0\n[<0>] __fuse_simple_request+0x10f/0x300\n":  true,
		"[<0>] fanotify_get_response+0x94/0x190\n[<0>] fanotify_handle_event+0x2e3/0x560\n": true,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(task, "stack"), []byte(stack), 0o600))
		require.Equal(t, want, lxc.Waits(task), stack)
	}
}
