package hook_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
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

// owner is a node with a real container and the stand-in for pct, for whoever types
// commands on it.
type owner struct {
	*guest
	base string // LXC's configuration of the container, before Proxmox adds lines
}

func newOwner(t *testing.T, module string, spec lab.Spec) *owner {
	n := sharing(t, module)
	bin := t.TempDir()
	out, err := command("go", "build", "-o", filepath.Join(bin, "pct"), "../internal/test/fakepct")
	require.NoError(t, err, out)
	spec.VMID = 101
	unprivileged := ""
	if !spec.Privileged {
		unprivileged = "unprivileged: 1\n"
	}
	for name, text := range map[string]string{
		"etc/pve/nodes/pve1/lxc/101.conf":                  "arch: amd64\nhostname: web\n" + unprivileged + "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n",
		"etc/pve/storage.cfg":                              "dir: local\n\tpath /var/lib/vz\n",
		"usr/bin/pve-nvidia-hook":                          "#!/bin/sh\nexec " + n.Program + " \"$@\"\n",
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Device Minor: \t 0\n",
	} {
		name = n.Path("host", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o755))
	}
	require.NoError(t, os.MkdirAll(n.Path("host/dev"), 0o755))
	require.NoError(t, unix.Mknod(n.Path("host/dev/nvidia-uvm"), unix.S_IFCHR|0o666, int(unix.Mkdev(511, 0))))
	n.Env = append(n.Env, "PATH="+bin+":"+os.Getenv("PATH"), "FAKEPCT_ROOT="+n.Path("host"), "FAKEPCT_LXCPATH="+n.LXCPath)
	n.Metrics = n.Path("hook.prom")
	n.configure("")
	made, err := n.lab.Container(t.Context(), spec)
	require.NoError(t, err)
	base, err := os.ReadFile(filepath.Join(n.LXCPath, "101/config"))
	require.NoError(t, err)
	return &owner{&guest{made, n}, string(base)}
}

// reboot starts the container as Proxmox does: LXC's configuration has the lines of
// Proxmox's file, and the hook is called before and after.
func (o *owner) reboot() string {
	o.node.t.Helper()
	said := o.node.run(0, "101", "pre-start")
	o.restart()
	return said + o.node.run(0, "101", "post-start")
}

// restart does it without the hook.
func (o *owner) restart() {
	t := o.node.t
	t.Helper()
	require.NoError(t, o.Stop())
	conf, err := os.ReadFile(o.node.Path("host/etc/pve/nodes/pve1/lxc/101.conf"))
	require.NoError(t, err)
	text := o.base
	for line := range strings.Lines(string(conf)) {
		if entry, ok := strings.CutPrefix(line, "lxc.mount.entry: "); ok && !strings.HasPrefix(entry, "/dev/") {
			text += "lxc.mount.entry = " + entry
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(o.node.LXCPath, "101/config"), []byte(text), 0o644))
	require.NoError(t, o.Start(t.Context()))
}

// row is the line of status.
func (o *owner) row() string {
	o.node.t.Helper()
	_, row, _ := strings.Cut(o.node.run(0, "status"), "\n")
	return strings.TrimSpace(row)
}

func (o *owner) doctor(code int) string {
	o.node.t.Helper()
	_, of, _ := strings.Cut(o.node.run(code, "doctor", "101"), "container 101 (web)\n")
	return of
}

func (o *owner) metric() string {
	text, _ := os.ReadFile(o.node.Metrics)
	_, info, _ := strings.Cut(string(text), "\npve_nvidia_hook_driver_info")
	info, _, _ = strings.Cut(info, "\n")
	return info
}

// From enable to uninstall, as whoever owns the node reads it.
func TestTheOwnerIsToldOfASharedDriver(t *testing.T) {
	o := newOwner(t, older, lab.Spec{})
	n := o.node
	n.run(0, "enable", "101", "--share", "--gpus", "none")
	require.Contains(t, o.row(), "the next start has the shared driver "+older)
	require.NotContains(t, o.doctor(1), " share: ")
	require.Contains(t, o.reboot(), "driver "+older+" is shared with the container")
	require.Regexp(t, `^101 .* shared `+older+` .* installed$`, o.row())
	require.NotContains(t, o.doctor(1), " versions: ")
	require.Contains(t, n.run(0, "apply", "101", "--dry-run"), "nothing would be done")
	require.Equal(t, `{vmid="101",wanted="`+older+`",installed="`+older+`",shared="yes"} 1`, o.metric())

	// The host is upgraded: the container keeps what it has until its restart.
	require.NoError(t, n.Module(newer))
	const keeps = "started with the shared driver " + older
	require.Regexp(t, "^! 101 .* shared "+older+" .* the container was "+keeps+", its restart gets "+newer, o.row())
	require.Contains(t, o.doctor(1), "problem  versions: it was "+keeps+", "+newer+" is needed\n           fix: pct reboot 101\n")
	require.Contains(t, n.run(1, "apply", "101"), keeps)
	require.Contains(t, o.doctor(1), "           fix: restart it: pct reboot 101\n", "no run is needed after that")
	require.Equal(t, `{vmid="101",wanted="`+newer+`",installed="`+older+`",shared="yes"} 1`, o.metric())

	// A reboot from inside calls no hook; what counts is what is mounted then.
	require.NoError(t, o.Stop())
	require.NoError(t, o.Start(t.Context()))
	require.Regexp(t, "^! 101 .* shared "+newer+" .* has other files than the set-up", o.row())
	said := o.reboot()
	require.Contains(t, said, "driver "+newer+" is shared with the container")
	require.NotContains(t, said, "after a reboot", "its programs were started with this driver")
	var rows []map[string]any
	require.NoError(t, json.Unmarshal([]byte(n.run(0, "status", "--json")), &rows))
	require.Equal(t, []any{true, newer, true}, []any{rows[0]["shared"], rows[0]["installed"], rows[0]["ok"]})

	// Without its line it has the driver until its restart, and links to nothing then.
	require.Contains(t, n.run(0, "disable", "101"), "stays until you run pve-nvidia-hook uninstall 101")
	require.Contains(t, o.row(), " shared "+newer+" ")
	require.Contains(t, o.doctor(1), "warning  versions: it has the shared driver "+newer+" until its restart")
	o.restart()
	require.NotContains(t, o.row(), " shared ")
	require.Contains(t, o.doctor(1), "problem  versions: its programs are led to a shared driver that is not mounted any more\n")
	require.Contains(t, n.run(0, "uninstall", "101", "--dry-run"), "1. take away what leads the container's programs to the shared driver\n")
	require.NotContains(t, n.run(0, "uninstall", "101"), "next start")
	require.Contains(t, o.doctor(1), " versions: no driver is installed")
	o.nothingShared()

	// And to an installed one.
	n.run(0, "enable", "101", "--share", "--gpus", "none")
	require.Contains(t, n.run(0, "replay", "101", "pre-start"), "makes the shared driver ready")
	o.reboot()
	require.Contains(t, n.run(0, "uninstall", "101"), "the next start of 101 installs it again")
	o.reboot()
	n.run(0, "enable", "101", "--share=false", "--gpus", "none")
	require.Regexp(t, "^! 101 .* shared "+newer+" .* is to be installed, the container has had the shared one so far$", o.row())
	n.run(0, "apply", "101")
	require.NotContains(t, o.row(), "shared")
	require.Equal(t, `{vmid="101",wanted="`+newer+`",installed="`+newer+`",shared="no"} 1`, o.metric())
	o.holds(newer)
}

// A container comes to a node of the cluster that has no such package: no hook, no
// mount. It starts, and once the package is there doctor says why it has no driver.
func TestANodeWithoutThePackageStartsTheContainer(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		o := newOwner(t, newer, spec)
		n := o.node
		n.run(0, "enable", "101", "--share", "--gpus", "none")
		require.NoDirExists(t, n.Path("run/driver"))
		o.restart()
		require.Equal(t, "", o.sh("ls /usr/lib/pve-nvidia-hook/driver 2>/dev/null || true"))
		said := o.doctor(1)
		require.Contains(t, said, "problem  versions: the shared driver is not mounted in it: when it was started, the node had none ready")
		require.Contains(t, said, "fix: pve-nvidia-hook apply 101 makes it ready, then: pct reboot 101\n")
		require.Regexp(t, "^! 101 .* the shared driver is not mounted in the container, its restart gets it$", o.row())
		require.Contains(t, n.run(1, "apply", "101"), "driver "+newer+" is shared from now on")
		o.reboot()
		o.sharesVersion(newer)
	})
}

// Libraries for graphics ask for others by names that have the version in them. A
// program that starts with the host's new driver finds them before the hook has run.
func TestNamesOfANewVersionAreFoundAtOnce(t *testing.T) {
	g := sharedGuest(t, older, lab.Spec{})
	n := g.node
	g.postStart(0)
	require.NoError(t, n.Module(newer))
	n.run(0, "101", "pre-start")
	require.NoError(t, g.Stop())
	require.NoError(t, g.Start(t.Context()))
	const name = "libnvidia-glsi.so." + newer
	require.NotContains(t, g.sh("ldconfig -p"), name)
	maps := func() string { return g.sh("LD_PRELOAD=" + name + " cat /proc/self/maps") }
	require.Contains(t, maps(), "/usr/lib/pve-nvidia-hook/driver/lib/"+name)
	g.postStart(0)
	g.sharesVersion(newer)
	require.Contains(t, maps(), "/usr/lib/pve-nvidia-hook/driver/lib/"+name)
	said, err := n.Run(t.Context(), "doctor", "101")
	require.NoError(t, err)
	require.NotContains(t, said.Text, " loader: ")
	n.run(0, "uninstall", "101")
	g.nothingShared()
}
