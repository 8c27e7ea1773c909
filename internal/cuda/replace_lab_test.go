package cuda

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// Debian's own packages of the driver, as its mirrors have them.
func TestDebiansDriverPackagesGo(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			b := newBareBench(t, lab.Spec{VMID: 101, Privileged: true, HostNet: true, Base: &lab.Base{Name: "minimal", Suite: suite}})
			slow(t, b, "sh", "-c", "sed -i 's/ main/ main contrib non-free non-free-firmware/' /etc/apt/sources.list && apt-get update")
			driverLess := b.packages()
			install := func() {
				slow(t, b, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends", "nvidia-smi", "libcuda1", "libnvidia-encode1")
			}
			install()
			blockers := driver.Blockers(b.c, "x86_64")
			require.Len(t, blockers, 1)
			require.Contains(t, blockers[0].Packages, "nvidia-installer-cleanup")
			require.Regexp(t, `^5\d\d\.`, blockers[0].Version)

			user := cudatest.Package{Name: "needs-cuda", Version: "1", Depends: "libcuda1"}
			require.NoError(t, b.c.WriteFile("/root/user.deb", user.Deb(), 0o644))
			b.in("dpkg", "-i", "/root/user.deb")
			with := b.packages()
			_, err := RemoveDriver(t.Context(), b.c, b.want, b.log)
			require.ErrorContains(t, err, "others need them: needs-cuda")
			require.NotEmpty(t, hint.Of(err))
			require.Equal(t, with, b.packages(), "a refusal changes nothing")
			b.in("dpkg", "--purge", "needs-cuda")

			names, err := RemoveDriver(t.Context(), b.c, b.want, b.log)
			require.NoError(t, err)
			require.Contains(t, names, "glx-diversions")
			require.Empty(t, driver.Blockers(b.c, "x86_64"))
			b.in("apt-get", "autoremove", "--purge", "-y")
			require.Equal(t, driverLess, b.packages())

			install()
			_, command, ok := strings.Cut(driver.Blockers(b.c, "x86_64")[0].Hint, "by hand in the container: ")
			require.True(t, ok)
			slow(t, b, append([]string{"env", "DEBIAN_FRONTEND=noninteractive"}, strings.Fields(strings.Replace(command, " purge ", " purge -y ", 1))...)...)
			require.Empty(t, driver.Blockers(b.c, "x86_64"), "what the hint says is enough")
			require.Equal(t, driverLess, b.packages())
			names, err = RemoveDriver(t.Context(), b.c, b.want, b.log)
			require.NoError(t, err)
			require.Empty(t, names)
		})
	}
}

// slow is bench.in for what takes its time on a busy machine.
func slow(t *testing.T, b *bench, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := b.lab.Attach(ctx, args...)
	require.NoError(t, err, out)
}
