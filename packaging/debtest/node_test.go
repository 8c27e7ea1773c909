package debtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// commandLimit is for one command in a node; dpkg with its syncs takes a second
// or two.
const commandLimit = 2 * time.Minute

// node is a container that boots systemd and runs containers of its own, with
// a stand-in for pct: as much of a Proxmox VE node as the package can see.
type node struct {
	*lab.Container
	t *testing.T
}

func nodeBase(suite string) lab.Base {
	return lab.Base{Name: lab.Node.Name, Suite: suite, Add: lab.Node.Add}
}

// startNode boots a node. It is "pve1" of a cluster of two.
func startNode(t *testing.T, suite string) *node {
	t.Helper()
	labtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	guest, err := lab.Build(ctx, lab.Minimal, false)
	require.NoError(t, err)
	base := nodeBase(suite)
	l := labtest.Open(t)
	c, err := l.Container(ctx, lab.Spec{VMID: 901, Privileged: true, Systemd: true, Base: &base, ExtraConfig: append(lab.Host(),
		"lxc.mount.entry = "+guest+" opt/guest none bind,ro,create=dir 0 0")})
	require.NoError(t, err)
	n := &node{c, t}
	n.give("/usr/sbin/pct", buildPct(t), 0o755)
	// Else Debian's lxc.service waits half a minute for a bridge at each boot.
	n.give("/etc/default/lxc-net", []byte("USE_LXC_BRIDGE=false\n"), 0o644)
	n.boot()
	return n
}

func (n *node) boot() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	require.NoError(n.t, n.Start(ctx))
	require.NoError(n.t, n.WaitBooted(ctx))
}

func buildPct(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "pct")
	goTool(t, "build", "-o", out, "./internal/test/fakepct")
	return read(t, out)
}

// sample writes a small run file in NVIDIA's format and returns its path.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	goTool(t, "run", "./internal/test/sample", "-version", driver, "-o", dir)
	runs, err := filepath.Glob(filepath.Join(dir, "*.run"))
	require.NoError(t, err)
	require.Len(t, runs, 1)
	return runs[0]
}

func goTool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, string(said))
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	return content
}

// try runs a shell command on the node.
func (n *node) try(script string) (string, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), commandLimit)
	defer cancel()
	return n.Attach(ctx, "env", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script)
}

// run is try for what has to work.
func (n *node) run(script string) string {
	n.t.Helper()
	out, err := n.try(script)
	require.NoError(n.t, err, script)
	return out
}

// give puts a file on the node.
func (n *node) give(name string, content []byte, mode os.FileMode) {
	n.t.Helper()
	path := filepath.Join(n.Root, name)
	require.NoError(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(n.t, os.WriteFile(path, content, mode))
	require.NoError(n.t, os.Chmod(path, mode))
}

// install installs a package with dpkg.
func (n *node) install(deb string) string {
	n.t.Helper()
	name := "/root/" + filepath.Base(deb)
	n.give(name, read(n.t, deb), 0o644)
	return n.run("dpkg -i --force-confold " + name + " 2>&1")
}

// joinCluster makes /etc/pve as pmxcfs shows it, with two nodes.
func (n *node) joinCluster() {
	n.run("mkdir -p /etc/pve/nodes/pve1/lxc /etc/pve/nodes/pve1/qemu-server /etc/pve/nodes/pve2/lxc /etc/pve/nodes/pve2/qemu-server" +
		" && ln -sn nodes/pve1 /etc/pve/local && ln -sn nodes/pve1/lxc /etc/pve/lxc")
}

// guest makes a container on the node: one for Proxmox VE and one for LXC.
func (n *node) guest(vmid, conf string) {
	n.t.Helper()
	n.give("/etc/pve/nodes/pve1/lxc/"+vmid+".conf", []byte(conf), 0o640)
	n.give("/var/lib/lxc/"+vmid+"/config", []byte(strings.Join([]string{
		"lxc.include = /usr/share/lxc/config/common.conf",
		"lxc.apparmor.profile = unconfined",
		"lxc.uts.name = guest" + vmid,
		"lxc.net.0.type = empty",
		"lxc.init.cmd = /bin/sleep infinity",
		"lxc.rootfs.path = dir:/var/lib/lxc/" + vmid + "/rootfs", "",
	}, "\n")), 0o644)
	// An upper layer cannot lie on an overlay, which the node's root is.
	n.run("cd /var/lib/lxc/" + vmid + " && mkdir -p rootfs layers && mount -t tmpfs guest layers && mkdir layers/up layers/work" +
		" && mount -t overlay -o lowerdir=/opt/guest,upperdir=$PWD/layers/up,workdir=$PWD/layers/work guest rootfs")
}

// starts starts a guest as Proxmox VE does, and stops it again.
func (n *node) starts(vmid string) string {
	n.t.Helper()
	said := n.run("pct start " + vmid + " 2>&1")
	require.Equal(n.t, "status: running\n", n.run("pct status "+vmid))
	n.run("pct stop " + vmid)
	return said
}

func (n *node) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(n.Root, name))
	return err == nil
}

// files lists everything on the node except what dpkg, apt, systemd and the tests
// themselves write.
func (n *node) files() string {
	n.t.Helper()
	return n.run(`find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /root ` +
		`-o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache/apt -o -path /var/cache/debconf -o -path /var/lib/lxc -o -path /etc/pve -o -path /var/lib/systemd -o -path /var/cache/ldconfig \) ` +
		`-prune -o -print | sort`)
}
