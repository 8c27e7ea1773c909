package hook_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// sharedGuest starts a container with the shared driver mounted, not set up yet.
func sharedGuest(t *testing.T, module string, spec lab.Spec) *guest {
	n := sharing(t, module)
	n.run(0, "101", "pre-start")
	return n.start(n.mounting(spec))
}

// The distribution's packages of the driver are in the way of a shared driver as they
// are of an installed one.
func TestPackagesAreReplacedByTheSharedDriverWhenAsked(t *testing.T) {
	g := sharedGuest(t, newer, lab.Spec{})
	n := g.node
	const library = "/usr/lib/x86_64-linux-gnu/libcuda.so.535.261.03"
	for _, p := range []cudatest.Package{
		{Name: "libcuda1", Version: "535.261.03-1", Files: map[string]string{library: "theirs\n"}},
		{Name: "needs-cuda", Version: "1", Depends: "libcuda1"},
	} {
		require.NoError(t, os.WriteFile(g.file("root/"+p.Name+".deb"), p.Deb(), 0o644))
		g.sh("dpkg -i /root/" + p.Name + ".deb")
	}
	said := g.postStart(1)
	require.Contains(t, said, "distribution packages of the driver are installed: libcuda1")
	require.Contains(t, said, "pve-nvidia-hook apply 101 --replace-packages removes them")
	g.nothingShared()
	require.Contains(t, n.run(1, "apply", "101", "--replace-packages"), "others need them: needs-cuda")
	require.FileExists(t, g.file(library))
	g.nothingShared()
	g.sh("dpkg --purge needs-cuda")
	require.Contains(t, n.run(0, "apply", "101", "--replace-packages", "--dry-run"), "remove the distribution's packages of the driver")
	require.Contains(t, n.run(0, "apply", "101", "--replace-packages"), "removed the distribution's driver packages (1 package)")
	require.NoFileExists(t, g.file(library))
	g.sharesVersion(newer)
	require.FileExists(t, g.file("etc/apt/preferences.d/pve-nvidia-hook"), "they do not come back")
}

// What the driver's graphics needs of the distribution a shared driver needs too.
func TestPackagesThatASharedDriverNeedsComeAndGoWithIt(t *testing.T) {
	g := sharedGuest(t, newer, lab.Spec{Privileged: true, HostNet: true})
	n := g.node
	const never = "[install]\nbackground = \"never\"\n"
	g.ownRepository()
	require.Contains(t, g.postStart(0), "packages = true below [driver] installs them")
	n.configure(never + "[containers]\n101.driver.packages = true\n")
	said := g.postStart(0)
	require.Contains(t, said, "libegl1, libgl1, libvulkan1, libx11-6, libxext6 installed for it")
	require.Contains(t, g.postStart(0), "is in place, shared by the node")
	require.Contains(t, n.run(0, "uninstall", "101"), "removed the packages that came with the driver")
	require.NoFileExists(t, g.file("usr/lib/x86_64-linux-gnu/libEGL.so.1"))
	require.Contains(t, g.postStart(0), "installed for it", "with the driver at once")
	g.sharesVersion(newer)
}
