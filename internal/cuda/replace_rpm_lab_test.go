package cuda

import (
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// Without the toolkit: driver packages are found and go, packages from the
// container's own repositories come and go.
func TestDriverPackagesOnRealDnfAndZypper(t *testing.T) {
	w := newRPMWorld(t)
	for i, s := range rpmSystems {
		t.Run(s.name, func(t *testing.T) {
			b := w.stand(t, i, lab.Spec{})
			b.in("rm", "-r", "/var/lib/dpkg")
			defer b.repoFile("mine", b.repo("a"))()
			before := b.packages()
			log := say.Log{Entry: logrus.NewEntry(logrus.New())}
			require.Empty(t, driver.AskRPM(t.Context(), b.c, "x86_64", driver.Blockers(b.c, "x86_64"), log))
			out, err := b.byHand("install", "needs-driver")
			require.NoError(t, err, out)
			blockers := driver.AskRPM(t.Context(), b.c, "x86_64", driver.Blockers(b.c, "x86_64"), log)
			require.Len(t, blockers, 1)
			require.Equal(t, []string{"libcuda1"}, blockers[0].Packages)
			require.Contains(t, blockers[0].Hint, s.tool+" remove")

			_, err = RemoveDriver(t.Context(), b.c, b.want, b.log)
			require.ErrorContains(t, err, "others need them: needs-driver")
			require.Contains(t, b.packages(), "libcuda1")
			b.in("rpm", "-e", "needs-driver")
			names, err := RemoveDriver(t.Context(), b.c, b.want, b.log)
			require.NoError(t, err)
			require.Equal(t, []string{"libcuda1"}, names)
			require.ElementsMatch(t, before, b.packages())

			want := b.want
			want.Packages = []string{"plain-tool"}
			had, err := AddPackages(t.Context(), b.c, want, b.log)
			require.NoError(t, err)
			require.Contains(t, b.packages(), "libnvjitlink-12-8")
			require.Equal(t, []string{"plain-tool"}, had.Asked)
			_, err = Remove(t.Context(), b.c, had, b.want, b.log)
			require.NoError(t, err)
			require.ElementsMatch(t, before, b.packages())

			want.Packages = []string{"needs-driver"}
			_, err = AddPackages(t.Context(), b.c, want, b.log)
			require.ErrorContains(t, err, "driver package libcuda1")
			require.ElementsMatch(t, before, b.packages())
		})
	}
}
