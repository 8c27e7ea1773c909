package hook_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// ownRepository gives the container a repository that has what the driver's graphics
// needs, and a dead one beside it.
func (g *guest) ownRepository() {
	t := g.node.t
	t.Helper()
	g.alone()
	const dir = "/usr/lib/x86_64-linux-gnu/"
	var all []cudatest.Package
	for name, library := range map[string]string{"libegl1": "libEGL.so.1", "libgl1": "libGL.so.1", "libvulkan1": "libvulkan.so.1", "libx11-6": "libX11.so.6", "libxext6": "libXext.so.6"} {
		all = append(all, cudatest.Package{Name: name, Version: "1", Files: map[string]string{dir + library: "a library\n"}})
	}
	require.NoError(t, os.Mkdir(g.file("root/repo"), 0o755))
	home, err := os.MkdirTemp("", "k") // short, for the agent's socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	key, err := cudatest.NewKey(t.Context(), home)
	require.NoError(t, err)
	require.NoError(t, cudatest.Write(t.Context(), g.file("root/repo"), key, all))
	g.sh("echo 'deb [trusted=yes] file:/root/repo /' >/etc/apt/sources.list.d/own.list; echo 'deb [trusted=yes] http://127.0.0.9:1/ /' >/etc/apt/sources.list.d/dead.list")
}

// What the driver's graphics needs comes from the container's own repositories
// when that is set, and goes with the driver.
func TestPackagesThatTheDriverNeedsComeAndGoWithIt(t *testing.T) {
	n := newNode(t, newer)
	const never = "[install]\nbackground = \"never\"\n"
	n.configure(never)
	g := n.start(lab.Spec{Privileged: true, HostNet: true})
	g.ownRepository()
	packages := g.sh("dpkg-query -W -f '${Package} '")

	require.Contains(t, g.postStart(0), "packages = true below [driver] installs them")
	require.Equal(t, packages, g.sh("dpkg-query -W -f '${Package} '"))

	n.configure(never + fmt.Sprintf("[containers]\n%d.driver.packages = true\n", g.VMID))
	said := g.postStart(0)
	require.Contains(t, said, "libegl1, libgl1, libvulkan1, libx11-6, libxext6 installed for it")
	require.NotContains(t, said, "nvidia-installer")
	require.FileExists(t, g.file("usr/lib/x86_64-linux-gnu/libEGL.so.1"))
	require.Contains(t, g.postStart(0), "is in place")

	g.sh("apt-mark manual libx11-6") // the user's from now on
	require.Contains(t, n.run(0, "uninstall", fmt.Sprint(g.VMID)), "removed the packages that came with the driver")
	require.NoFileExists(t, g.file("usr/lib/x86_64-linux-gnu/libEGL.so.1"))
	g.unrecorded()

	require.Contains(t, g.postStart(0), "installed for it", "with the driver at once")
	g.holds(newer)
	g.sh("rm -r /root/repo")
	n.run(0, "uninstall", fmt.Sprint(g.VMID))
	said = g.postStart(1)
	require.Contains(t, said, "the driver is fine, packages that its libraries need are not there")
	require.Contains(t, said, "hint: ")
	g.holds(newer)
}
