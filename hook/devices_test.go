package hook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// guestConf writes Proxmox VE's file of a container.
func (n *node) guestConf(vmid int, lines ...string) {
	n.t.Helper()
	dir := n.Path("host/etc/pve/lxc")
	require.NoError(n.t, os.MkdirAll(dir, 0o755))
	require.NoError(n.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.conf", vmid)), []byte(strings.Join(lines, "\n")+"\n"), 0o640))
}

// hostNode makes a device node of the host.
func (n *node) hostNode(name string, major, minor uint32) {
	n.t.Helper()
	file := n.Path("host/dev", name)
	require.NoError(n.t, os.MkdirAll(filepath.Dir(file), 0o755))
	_ = os.Remove(file)
	require.NoError(n.t, unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))))
	require.NoError(n.t, os.Chmod(file, 0o666))
}

// nvidia-smi works with an old node of nvidia-uvm; CUDA does not.
func TestAGPUOfNoUseIsSaid(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	n.hostNode("nvidia0", 195, 0)
	n.hostNode("nvidia-uvm", 511, 0)
	n.guestConf(101, "hostname: gpu", "dev0: /dev/nvidia0,mode=0666", "dev1: /dev/nvidia-uvm,mode=0666")
	g.sh("mknod -m 666 /dev/nvidia0 c 195 0; mknod -m 666 /dev/nvidia-uvm c 511 0")
	require.Contains(t, g.postStart(0), "is installed and nvidia-smi works")
	require.NotContains(t, n.run(0, "status"), "!")

	n.hostNode("nvidia-uvm", 509, 0)
	said := g.postStart(0)
	require.Contains(t, said, "warning: driver "+newer+" is in place, but the GPU does not work in the container: /dev/nvidia-uvm in the container is device 511:0, on the host it is 509:0")
	require.Contains(t, said, "hint: see pve-nvidia-hook doctor 101")
	require.Contains(t, n.run(0, "status"), "on the host it is 509:0")

	g.sh("rm /dev/nvidia-uvm; touch /dev/nvidia-uvm")
	require.Contains(t, g.postStart(0), "/dev/nvidia-uvm in the container is not a device")
	g.sh("rm /dev/nvidia-uvm")
	require.Contains(t, g.postStart(0), "/dev/nvidia-uvm is missing in the container")
	g.sh("mknod -m 666 /dev/nvidia-uvm c 509 0")
	require.NotContains(t, g.postStart(0), "does not work")
}

// The real nvidia-smi makes a control node in a privileged container without any,
// and then says something that helps nobody.
func TestAContainerWithoutGPUIsToldSoBeforeNvidiaSMIIsAsked(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	n.guestConf(101, "hostname: gpu")
	g.sh("echo rc=255 >/etc/sample-nvidia-smi")
	said := g.postStart(1)
	require.Contains(t, said, "the container has no GPU: it was enabled without --gpus")
	require.Contains(t, said, "hint: pve-nvidia-hook enable 101 --gpus all")
	require.NotContains(t, said, "nvidia-installer.log")
	// The files are kept: the next start only asks again.
	g.sh("rm /etc/sample-nvidia-smi; mknod -m 666 /dev/nvidia0 c 195 0")
	n.guestConf(101, "hostname: gpu", "dev0: /dev/nvidia0,mode=0666")
	said = g.postStart(0)
	require.NotContains(t, said, "nvidia-installer")
	require.Contains(t, said, "nvidia-smi says "+newer)
}
