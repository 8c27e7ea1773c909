package lxc_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// Whoever has the old mount keeps it, and it does not stay below the new one. Where the
// kernel can do it, each open meanwhile finds the old or the new one.
func TestAMountOnTheHostIsExchanged(t *testing.T) {
	labtest.Need(t) // root, and the kernel's overlay
	for name, older := range map[string]bool{"at once": false, "on a kernel before 6.5": true} {
		t.Run(name, func(t *testing.T) {
			if older {
				t.Cleanup(lxc.OnAnOlderKernel())
			}
			trees := map[string]string{}
			for _, v := range []string{"old", "new"} {
				trees[v] = t.TempDir()
				require.NoError(t, os.WriteFile(filepath.Join(trees[v], "version"), []byte(v), 0o644))
			}
			point := filepath.Join(t.TempDir(), "driver")
			require.NoError(t, os.Mkdir(point, 0o755))
			t.Cleanup(func() { labtest.Unmount(point) })
			reads := func(dir, want string) {
				t.Helper()
				text, err := os.ReadFile(filepath.Join(dir, "version"))
				require.NoError(t, err)
				require.Equal(t, want, string(text))
			}
			require.NoError(t, lxc.MountHere(t.Context(), trees["old"], point))
			container := t.TempDir()
			require.NoError(t, syscall.Mount(point, container, "", syscall.MS_BIND, ""))
			t.Cleanup(func() { require.NoError(t, syscall.Unmount(container, 0)) })

			gaps := make(chan int)
			done := make(chan struct{})
			go func() {
				n := 0
				for {
					if _, err := os.Stat(filepath.Join(point, "version")); err != nil {
						n++
					}
					select {
					case <-done:
						gaps <- n
						return
					default:
					}
				}
			}()
			for range 50 {
				require.NoError(t, lxc.MountHere(t.Context(), trees["old"], point))
				require.NoError(t, lxc.MountHere(t.Context(), trees["new"], point))
			}
			close(done)
			found := <-gaps
			if !older {
				require.Zero(t, found, "moments without a mount")
			}
			reads(point, "new")
			reads(container, "old")
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(mounts), " "+point+" "))
		})
	}
}
