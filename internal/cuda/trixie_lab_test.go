package cuda

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
)

// Debian 13 has apt 3, with another solver, other words and another verifier of
// signatures (sqv): what reads apt's words is shown on it too.
func TestToolkitOnDebian13(t *testing.T) {
	b := newBench(t, "trixie")
	b.publish("a", strings.Replace(nvidiaList, "debian12", "debian13", 1), b.key, toolkits()...)
	before := b.state()

	t.Run("InstallAndChange", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.Packages = "12.8", []string{"nvidia-container-toolkit"} }))
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8, V12.8.93")
		require.True(t, b.log.has("to fetch"))
		require.False(t, b.log.has(": 0 kB to fetch"), "the sizes that apt prints are not understood")
		was := b.state()
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.Packages = "12.8", []string{"nvidia-container-toolkit"} }))
		b.same(was)
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = cudapkg.Auto }))
		require.Equal(t, "13.0", b.had.Release)
		require.NotContains(t, b.packages(), "12-8")
	}))
	t.Run("ADriverPackageAsDependencyIsRefusedByName", b.with(func(t *testing.T) {
		was := b.packages()
		err := b.install(func(w *Want) { w.Toolkit, w.Packages = "13.0", []string{"needs-driver"} })
		require.ErrorContains(t, err, "driver package libcuda1")
		user := b.lab.Root + "/etc/apt/preferences.d/00-mine"
		require.NoError(t, os.WriteFile(user, []byte("Package: libcuda1\nPin: release *\nPin-Priority: 990\n"), 0o644))
		err = b.install(func(w *Want) { w.Toolkit, w.Packages = "13.0", []string{"needs-driver"} })
		require.NoError(t, os.Remove(user))
		require.ErrorContains(t, err, "driver package libcuda1")
		for _, n := range []string{"cuda-12-8", "cuda-runtime-12-8", "cuda-drivers", "nvidia-open-570", "libcuda1", "needs-driver"} {
			out, err := b.try("apt-get", "install", "-y", n)
			require.Error(t, err, out)
		}
		require.Equal(t, was, b.packages())
	}))
	t.Run("UninstallLeavesTheContainerAsBefore", b.with(func(t *testing.T) {
		b.remove()
		b.same(before)
	}))
	t.Run("AnUnknownKeyIsRefused", b.with(func(t *testing.T) {
		b.publish("alien", nvidiaList, newKey(t), toolkits()...)
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("alien") })
		require.ErrorContains(t, err, "not signed with the key")
		b.remove()
		b.same(before)
	}))
	t.Run("ABrokenIndexIsNamed", b.with(func(t *testing.T) {
		b.publish("broken", nvidiaList, b.key, toolkits()...)
		for _, n := range []string{"Packages", "Packages.gz"} {
			require.NoError(t, os.WriteFile(b.dir+"/broken/debian13/x86_64/"+n, []byte("nonsense"), 0o644))
		}
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("broken") })
		require.ErrorContains(t, err, "is broken")
		b.remove()
		b.same(before)
	}))
}
