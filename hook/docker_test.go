package hook_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

func TestTheContainerToolkitComesWithTheDriverAndGoesWithIt(t *testing.T) {
	n := newNode(t, newer)
	// The sample driver's libnvidia-ml is no library that nvidia-ctk could ask: a
	// specification is made in the tests of internal/docker.
	n.configure(fmt.Sprintf("[driver]\nverify = \"files\"\n[cuda]\nrepo_url = %q\n[install]\nbackground = \"never\"\n[docker]\ntoolkit = true\n", toolkitRepo(t, cuda128)))
	g := n.start(lab.Spec{Privileged: true, HostNet: true})
	g.alone()
	packages := g.sh("dpkg-query -W -f '${Package} '")
	said := g.postStart(0)
	require.Contains(t, said, "nvidia-container-toolkit installed")
	require.Contains(t, said, "the container has neither Docker nor podman yet")
	require.FileExists(t, g.file("usr/bin/nvidia-ctk"))
	require.Contains(t, g.sh("cat /var/lib/pve-nvidia-hook/installed.json"), `"docker": {`)
	require.Contains(t, g.postStart(0), "driver "+newer+" is in place")

	g.sh("rm /usr/bin/nvidia-ctk")
	require.Contains(t, g.postStart(1), "the driver is fine, the Container Toolkit is not: NVIDIA's Container Toolkit is not in the container")
	g.sh("touch /usr/bin/nvidia-ctk")
	require.Contains(t, n.run(0, "uninstall", "101"), "took back the Container Toolkit's configuration")
	require.Equal(t, packages, g.sh("dpkg-query -W -f '${Package} '"))
	g.unrecorded()
}
