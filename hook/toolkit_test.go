package hook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// toolkitRepo serves a repository with CUDA toolkits on loopback, each given by
// its version and its compiler's, and returns its URL.
func toolkitRepo(t *testing.T, toolkits ...[2]string) string {
	t.Helper()
	labtest.Program(t, "gpg")
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	home, err := os.MkdirTemp("", "gpg-") // a gpg agent's socket needs a short path
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	key, err := cudatest.NewKey(t.Context(), home)
	require.NoError(t, err)
	const nvidia = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/"
	packages := cudatest.Rest()
	for _, t := range toolkits {
		packages = append(packages, cudatest.Toolkit(t[0], t[1], "570")...)
	}
	packages = append(packages, cudatest.Keyring(nvidia, "debian12", "x86_64", key))
	require.NoError(t, cudatest.Write(t.Context(), filepath.Join(dir, "debian12", "x86_64"), key, packages))
	return server.URL + "/debian12/x86_64/"
}

var cuda128, cuda130 = [2]string{"12.8.1", "12.8.93"}, [2]string{"13.0.2", "13.0.88"}

// alone has the container ask nobody outside this machine for packages.
func (g *guest) alone() {
	g.node.t.Helper()
	g.sh("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*; touch /etc/apt/sources.list")
}

func TestAFailedToolkitCostsNoDriverAndIsTriedAlone(t *testing.T) {
	n := newNode(t, newer)
	repo := toolkitRepo(t, cuda128)
	want := "[cuda]\ntoolkit = \"12.8\"\nrepo_url = %q\n[install]\nbackground = \"never\"\n"
	n.configure(fmt.Sprintf(want, repo+"no-such-folder/"))
	g := n.start(lab.Spec{Privileged: true, HostNet: true})
	g.alone()
	said := g.postStart(1)
	require.Contains(t, said, "the driver is fine, the CUDA toolkit is not")
	require.Contains(t, said, "not completed: driver "+newer+" is in place (")
	g.holds(newer)

	said = n.run(0, "uninstall", fmt.Sprint(g.VMID))
	require.Contains(t, said, "driver "+newer+" is to be removed", "a repository that cannot be set up leaves nothing")
	require.NotContains(t, said, "CUDA toolkit")
	g.postStart(1)

	before := n.Mirror.Total()
	said = g.postStart(1)
	require.Contains(t, said, "the CUDA toolkit is not", "it failed in no time, so it is tried at each start")
	require.NoError(t, n.FailedAtLength(g.VMID))
	said = g.postStart(1)
	require.Contains(t, said, "next attempt after", "nothing has changed")
	n.configure(fmt.Sprintf(want, repo))
	said = g.postStart(0)
	require.Contains(t, said, "CUDA toolkit 12.8 (nvcc 12.8.93) installed")
	require.NotContains(t, said, "nvidia-installer")
	require.NotContains(t, said, "nvidia-smi says")
	require.Equal(t, before, n.Mirror.Total())
}

func TestToolkitComesWithTheDriverAndGoesWithIt(t *testing.T) {
	n := newNode(t, newer)
	n.configure(fmt.Sprintf("[cuda]\ntoolkit = \"12.8\"\nrepo_url = %q\n[install]\nbackground = \"never\"\n", toolkitRepo(t, cuda128)))
	g := n.start(lab.Spec{Privileged: true, HostNet: true})
	g.alone()
	packages := g.sh("dpkg-query -W -f '${Package} '")

	require.Contains(t, g.postStart(0), "CUDA toolkit 12.8 (nvcc 12.8.93) installed")
	g.holds(newer)
	require.Contains(t, g.sh("bash -lc 'nvcc --version'"), "release 12.8")
	require.Contains(t, g.postStart(0), "is in place")
	id := fmt.Sprint(g.VMID)
	require.Contains(t, n.run(0, "status", "--json", id), `"toolkit": "12.8"`)

	said := n.run(0, "uninstall", id, "--dry-run")
	require.Contains(t, said, "1. remove the CUDA packages")
	require.Contains(t, said, "2. remove the driver that is in the container")
	said = n.run(0, "uninstall", id)
	require.Contains(t, said, "removed CUDA toolkit 12.8")
	require.Contains(t, said, "removed driver "+newer)
	require.Equal(t, packages, g.sh("dpkg-query -W -f '${Package} '"))
	require.NoDirExists(t, g.file("usr/local/cuda-12.8"))
	g.unrecorded()
	require.NoDirExists(t, g.file("var/lib/pve-nvidia-hook"))
	require.Contains(t, n.run(0, "status", "--json", id), `"toolkit": ""`)
}

func TestAutoGivesAnOldGPUAToolkitThatCompilesForIt(t *testing.T) {
	n := newNode(t, newer)
	n.configure(fmt.Sprintf("[cuda]\ntoolkit = \"auto\"\nrepo_url = %q\n[install]\nbackground = \"never\"\n", toolkitRepo(t, cuda128, cuda130)))
	g := n.start(lab.Spec{Privileged: true, HostNet: true})
	g.alone()
	g.sh("echo cap=6.1 >/etc/sample-nvidia-smi")
	said := g.postStart(0)
	require.Contains(t, said, "auto leaves out CUDA toolkit 13.0 and newer: they need GPUs of compute capability 7.5, the container has one of 6.1")
	require.Contains(t, said, "CUDA toolkit 12.8 (nvcc 12.8.93) installed")
	require.Contains(t, g.postStart(0), "is in place", "what was chosen stays")

	g.sh("echo cap=unknown >/etc/sample-nvidia-smi")
	said = n.run(0, "replay", fmt.Sprint(g.VMID), "post-start", "--force", "--log-level", "info")
	require.Contains(t, said, "CUDA toolkit 13.0 (nvcc 13.0.88) installed")
	require.NotContains(t, said, "compute capability")
}
