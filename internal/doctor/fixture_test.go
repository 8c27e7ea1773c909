package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// node is a folder with the facts of a node on which all is well: one GPU,
// container 101 with the hookscript and devN entries, a second node in the cluster.
type node struct {
	*testing.T
	root string
}

const module = "580.142"

// goodConf is the configuration of a container that enable has set up.
const goodConf = `hostname: web
hookscript: local:snippets/pve-nvidia-hook
dev0: /dev/nvidiactl,mode=0666
dev1: /dev/nvidia0,mode=0666
dev2: /dev/nvidia-uvm,mode=0666
unprivileged: 1
`

func newNode(t *testing.T) node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("device nodes and folders of root need root")
	}
	n := node{t, t.TempDir()}
	n.file("proc/modules", "nvidia_uvm 4571136 0 - Live 0x0\nnvidia 104165376 1 nvidia_uvm, Live 0x0\n")
	n.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "+module+"  Release Build\n")
	n.file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A10\nDevice Minor: \t 0\n")
	n.file("proc/devices", "Character devices:\n  1 mem\n 10 misc\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n243 hidraw\n\nBlock devices:\n240 nvme\n")
	n.file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
	n.file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
	n.file("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
	n.file("sys/bus/pci/devices/0000:01:00.0/device", "0x2236\n")
	n.file("dev/kmsg", kernelLog())
	n.node("nvidiactl", 195, 255)
	n.node("nvidia0", 195, 0)
	n.node("nvidia-uvm", 511, 0)
	n.node("nvidia-uvm-tools", 511, 1)
	n.file("usr/lib/"+arch(t)+"-linux-gnu/libnvidia-ml.so."+module, "")
	n.link("etc/systemd/system/multi-user.target.wants/pve-nvidia-hook-devices.service", "/lib/systemd/system/pve-nvidia-hook-devices.service")
	n.file("usr/lib/systemd/system/pve-nvidia-hook-devices.service", "")
	n.file("usr/bin/pve-nvidia-hook", "")
	n.mode("usr/bin/pve-nvidia-hook", 0o755)
	n.link("etc/pve/local", "nodes/pve1")
	n.file("etc/pve/nodes/pve1/lxc/101.conf", goodConf)
	n.file("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n")
	n.file("var/lib/vz/snippets/"+snippet.Name, string(snippet.Script))
	n.mode("var/lib/vz/snippets/"+snippet.Name, 0o755)
	n.file("state/enabled/101.json", `{"hookscript":"local:snippets/pve-nvidia-hook","dev":{"0":"/dev/nvidiactl,mode=0666"}}`)
	n.file("state/runs/101/20260101T000000.000000Z.json", `{"at":"2026-01-01T00:00:00Z","result":"skipped"}`)
	n.mode("state", 0o700)
	n.configure("")
	return n
}

// kernelLog is a kernel's log as /dev/kmsg gives it, with messages of the driver.
func kernelLog(messages ...string) string {
	log := "5,0,0,-;Linux version 6.8.12-4-pve (build@proxmox) #1 SMP\n6,700,3100000,-;pci 0000:01:00.0: vgaarb: bridge control possible\n SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n"
	for i, m := range append([]string{"nvidia: loading out-of-tree module taints kernel."}, messages...) {
		log += fmt.Sprintf("4,%d,%d,-;%s\n", 800+i, 5140900+i, strings.ReplaceAll(m, "\n", `\x0a`))
	}
	return log
}

func arch(t *testing.T) string {
	a, err := host.Arch()
	require.NoError(t, err)
	return a
}

func (n node) path(name string) string { return filepath.Join(n.root, name) }

func (n node) file(name, text string) {
	n.Helper()
	require.NoError(n, os.MkdirAll(filepath.Dir(n.path(name)), 0o755))
	require.NoError(n, os.WriteFile(n.path(name), []byte(text), 0o644))
}

func (n node) mode(name string, mode os.FileMode) {
	n.Helper()
	require.NoError(n, os.Chmod(n.path(name), mode))
}

func (n node) link(name, target string) {
	n.Helper()
	require.NoError(n, os.MkdirAll(filepath.Dir(n.path(name)), 0o755))
	require.NoError(n, os.Symlink(target, n.path(name)))
}

func (n node) remove(names ...string) {
	n.Helper()
	for _, name := range names {
		require.NoError(n, os.RemoveAll(n.path(name)))
	}
}

func (n node) node(name string, major, minor uint32) {
	n.Helper()
	require.NoError(n, os.MkdirAll(n.path("dev"), 0o755))
	require.NoError(n, unix.Mknod(n.path("dev/"+name), unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))))
}

// guest changes the configuration of container 101.
func (n node) guest(old, new string) {
	n.Helper()
	require.Contains(n, goodConf, old)
	n.file("etc/pve/nodes/pve1/lxc/101.conf", strings.Replace(goodConf, old, new, 1))
}

// append adds lines to the configuration of container 101.
func (n node) append(text string) {
	n.Helper()
	old, err := os.ReadFile(n.path("etc/pve/nodes/pve1/lxc/101.conf"))
	require.NoError(n, err)
	n.file("etc/pve/nodes/pve1/lxc/101.conf", string(old)+text)
}

// mounts is a container as older guides tell to make it.
func (n node) mounts(rules ...string) {
	text := "hostname: web\nhookscript: local:snippets/pve-nvidia-hook\n"
	for _, dev := range []string{"nvidiactl", "nvidia0", "nvidia-uvm"} {
		text += fmt.Sprintf("lxc.mount.entry: /dev/%s dev/%s none bind,optional,create=file\n", dev, dev)
	}
	for _, rule := range rules {
		text += "lxc.cgroup2.devices.allow: " + rule + "\n"
	}
	n.file("etc/pve/nodes/pve1/lxc/101.conf", text)
	n.file("state/enabled/101.json", `{"hookscript":"local:snippets/pve-nvidia-hook"}`)
}

func (n node) configure(extra string) {
	n.file("config.toml", extra+fmt.Sprintf("\n[cache]\ndir = %q\n[paths]\nstate = %q\nrun = %q\nlxc = %q\n",
		n.path("cache"), n.path("state"), n.path("run"), n.path("lxc")))
}

func (n node) examine(vmids ...int) Report {
	n.Helper()
	return n.look(Options{VMIDs: vmids})
}

func (n node) look(o Options) Report {
	n.Helper()
	o.Host = host.Host{Root: n.root}
	o.Config, o.ConfigError = config.Load(n.path("config.toml"), config.Options{HostRoot: n.root, Named: true})
	return Examine(context.Background(), o)
}

// lines shows findings that are not well, one a line, without those that every
// test here has since no container runs.
func lines(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		if f.Level != OK && f.Check != "inside" {
			fmt.Fprintf(&b, "%d %s %s: %s | %s\n", f.VMID, f.Level, f.Check, f.What, f.Fix)
		}
	}
	return b.String()
}

// causes are lines without what follows from another finding.
func causes(all []Finding) string {
	return lines(slices.DeleteFunc(slices.Clone(all), func(f Finding) bool { return f.Cause != "" }))
}
