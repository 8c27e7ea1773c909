package pve

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// pct is the stand-in, built once for all tests.
var pct string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pve-test")
	if err != nil {
		panic(err)
	}
	pct = filepath.Join(dir, "pct")
	if out, err := exec.Command("go", "build", "-o", pct, "../test/fakepct").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the stand-in for pct: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// node is a root folder with what a Proxmox node has: node pve1 of a cluster
// with pve2, containers, a VM, storages and two GPUs.
type node struct {
	*testing.T
	o Options
}

func newNode(t *testing.T) node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("device nodes need root")
	}
	root := t.TempDir()
	n := node{t, Options{Root: root, State: filepath.Join(t.TempDir(), "state"), Pct: pct, Present: nodes}}
	n.file("etc/pve/nodes/pve1/lxc/101.conf", full)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", "arch: amd64\nhostname: db\nostype: debian\n")
	n.file("etc/pve/nodes/pve1/qemu-server/110.conf", "name: win\nmemory: 4096\n")
	n.file("etc/pve/nodes/pve2/lxc/201.conf", "arch: amd64\nhostname: far\nhookscript: local:snippets/pve-nvidia-hook\n")
	require.NoError(t, os.Symlink("nodes/pve1", filepath.Join(root, "etc/pve/local")))
	require.NoError(t, os.Symlink("nodes/pve1/lxc", filepath.Join(root, "etc/pve/lxc")))
	n.file("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\n"+
		"lvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir\n\n"+
		"dir: shared\n\tpath /srv/shared\n\tcontent snippets\n\tshared 1\n\nnfs: nas\n\tserver 192.0.2.1\n\texport /nas\n\tcontent snippets\n")
	n.script("var/lib/vz/snippets/mine.sh")
	for i, d := range append([]Device{{Path: "/dev/fuse", Mode: 0o666}, {Path: "/dev/dri/renderD128", Mode: 0o660}}, nodes...) {
		file := filepath.Join(root, d.Path)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, unix.Mknod(file, syscall.S_IFCHR|d.Mode, int(unix.Mkdev(195, uint32(i)))))
	}
	t.Setenv("FAKEPCT_ROOT", root)
	t.Setenv("FAKEPCT_RUNNING", "")
	return n
}

func (n node) file(name, text string) {
	n.Helper()
	file := filepath.Join(n.o.Root, name)
	require.NoError(n, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(n, os.WriteFile(file, []byte(text), 0o644))
}

func (n node) script(name string) {
	n.file(name, "#!/bin/sh\n")
	require.NoError(n, os.Chmod(filepath.Join(n.o.Root, name), 0o755))
}

func (n node) conf(vmid int) string {
	n.Helper()
	raw, err := os.ReadFile(filepath.Join(n.o.Root, fmt.Sprintf("etc/pve/lxc/%d.conf", vmid)))
	require.NoError(n, err)
	return string(raw)
}

func (n node) enable(vmids ...int) (string, error) {
	var out bytes.Buffer
	err := Enable(context.Background(), n.o, vmids, &out)
	return out.String(), err
}

func (n node) disable(vmids ...int) (string, error) {
	var out bytes.Buffer
	err := Disable(context.Background(), n.o, vmids, &out)
	return out.String(), err
}

func TestEnableThenDisableLeavesTheConfigurationAsItWas(t *testing.T) {
	n := newNode(t)
	before := n.conf(102)
	out, err := n.enable(102)
	require.NoError(t, err)
	golden(t, "say-enable", out)
	golden(t, "conf-enabled", n.conf(102))
	file := filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, snippet.Script, raw)

	enabled := n.conf(102)
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "container 102 (db): nothing to change")
	require.Equal(t, enabled, n.conf(102))

	out, err = n.disable(102)
	require.NoError(t, err)
	golden(t, "say-disable", out)
	require.Equal(t, before, n.conf(102))
	require.NoFileExists(t, stateFile(n.o.State, 102))
	out, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, "container 102 (db): nothing to change\n", out)
}

func TestDryRunSaysAllAndChangesNothing(t *testing.T) {
	n := newNode(t)
	n.o.DryRun = true
	before := n.conf(102)
	dry, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, dry, "container 102 (db): would run: pct set 102 --hookscript local:snippets/pve-nvidia-hook\n"+
		"container 102 (db): would run: pct set 102 --dev0 ")
	require.Equal(t, before, n.conf(102))
	require.NoDirExists(t, n.o.State)
	require.NoFileExists(t, filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook"))

	n.o.DryRun = false
	wet, err := n.enable(102)
	require.NoError(t, err)
	for line := range strings.Lines(dry) {
		if !strings.Contains(line, "would run") {
			require.Contains(t, wet, strings.NewReplacer("would write", "wrote", "would ", "").Replace(line))
		}
	}
}

func TestChainedHookscriptComesBack(t *testing.T) {
	n := newNode(t)
	before := n.conf(101)
	_, err := n.enable(101)
	require.ErrorContains(t, err, "container 101 has a hookscript already: local:snippets/mine.sh")
	require.Equal(t, before, n.conf(101))

	n.o.Chain, n.o.GPUs = true, "none"
	for range 2 { // enabling again keeps the chain
		_, err = n.enable(101)
		require.NoError(t, err)
		require.Contains(t, n.conf(101), "\nhookscript: local:snippets/pve-nvidia-hook+mine.sh\n")
	}
	raw, err := os.ReadFile(filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook+mine.sh"))
	require.NoError(t, err)
	require.Equal(t, snippet.Script, raw)
	n.o.Storage = "shared"
	_, err = n.enable(101)
	require.ErrorContains(t, err, "the hookscript of container 101 must be in the same folder as local:snippets/mine.sh")

	require.NoError(t, os.RemoveAll(n.o.State), "the package was purged and installed again")
	_, err = n.disable(101)
	require.NoError(t, err)
	require.Contains(t, n.conf(101), "\nhookscript: local:snippets/mine.sh\n")
}

func TestChainThatProxmoxWouldNotRunIsRefused(t *testing.T) {
	n := newNode(t)
	n.o.Chain, n.o.GPUs = true, "none"
	require.NoError(t, os.Remove(filepath.Join(n.o.Root, "var/lib/vz/snippets/mine.sh")))
	before := n.conf(101)
	for name, try := range map[string]func() error{
		"enable": func() error { _, err := n.enable(101); return err },
		"check":  func() error { return Check(n.o, []int{101}) },
	} {
		err := try()
		require.ErrorContains(t, err, "its hookscript local:snippets/mine.sh does not exist", name)
		require.Contains(t, hint.Of(err), "pct set 101 --delete hookscript")
	}
	require.Equal(t, before, n.conf(101))
}

// pct runs the stand-in.
func (n node) pct(args ...string) {
	n.Helper()
	out, err := exec.Command(pct, args...).CombinedOutput()
	require.NoError(n, err, string(out))
}

func TestChainAndDevicesBelongToTheContainerNotToItsNumber(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	n.o.Chain = true
	_, err = n.enable(101)
	require.NoError(t, err)
	n.pct("destroy", "101")
	n.pct("clone", "102", "101")
	require.Contains(t, n.conf(101), "hookscript: local:snippets/pve-nvidia-hook\n", "the old one's script does not run in the new one")
	_, err = n.disable(101)
	require.NoError(t, err)
	require.Equal(t, "arch: amd64\nhostname: db\nostype: debian\n", n.conf(101))
}

func TestCloneAndBackupCarryWhatEnableHasSet(t *testing.T) {
	const mine = "hookscript: local:snippets/mine.sh\nhostname: db\n"
	for name, carry := range map[string]func(n node){
		"clone": func(n node) { n.pct("clone", "102", "103") },
		"backup": func(n node) {
			n.file("backup", n.conf(102))
			n.pct("restore", "103", filepath.Join(n.o.Root, "backup"))
		},
		"backup over one that was enabled otherwise": func(n node) {
			n.file("backup", n.conf(102))
			n.file("etc/pve/nodes/pve1/lxc/103.conf", "hostname: x\n")
			n.o.GPUs = "1"
			_, err := n.enable(103)
			require.NoError(n, err)
			n.pct("restore", "103", filepath.Join(n.o.Root, "backup"), "--force")
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.file("etc/pve/nodes/pve1/lxc/102.conf", mine)
			n.o.Chain = true
			_, err := n.enable(102)
			require.NoError(t, err)
			carry(n)
			require.Equal(t, n.conf(102), n.conf(103))

			out, err := n.enable(103)
			require.NoError(t, err)
			require.Contains(t, out, "container 103 (db): nothing to change")
			require.NotContains(t, out, "keep dev")
			_, err = n.disable(103)
			require.NoError(t, err)
			require.NotContains(t, n.conf(103), "dev0")
			require.Contains(t, n.conf(103), "hookscript: local:snippets/mine.sh\n")
			require.NoFileExists(t, stateFile(n.o.State, 103))
		})
	}
}

func TestDisableAfterARollbackTakesTheDevicesToo(t *testing.T) {
	n := newNode(t)
	n.o.GPUs = "1"
	_, err := n.enable(102)
	require.NoError(t, err)
	snapshot := n.conf(102)
	n.o.GPUs = "all"
	_, err = n.enable(102)
	require.NoError(t, err)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", snapshot)
	_, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, "arch: amd64\nhostname: db\nostype: debian\n", n.conf(102))
}

func TestEntriesOfTheUsersInTheSameWordsStay(t *testing.T) {
	const own = "arch: amd64\ndev0: /dev/nvidia0,mode=0666\nhostname: db\n"
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", own)
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(out, "keep dev0"), out)
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "nothing to change")
	n.pct("set", "102", "--delete", "dev2") // then the record alone does not tell what is enable's
	_, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, own, n.conf(102))
}

func TestEntryChangedByHandIsNamedOnce(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	n.pct("set", "102", "--dev0", "/dev/nvidiactl,mode=0660")
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(out, "keep dev0"), out)
	require.Contains(t, out, "keep dev0: /dev/nvidiactl,mode=0660, it was changed by hand")
}

// What a container brings from another node is its configuration, no record.
func TestContainerFromAnotherNodeGetsItsHookscriptBack(t *testing.T) {
	const moved = "dev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia0,gid=44\ndev2: /dev/nvidia-caps/nvidia-cap1,mode=0400\n" +
		"hookscript: local:snippets/pve-nvidia-hook\nhostname: db\n"
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", moved)
	n.o.Chains = map[int]string{102: "local:snippets/mine.sh"}
	out, err := n.disable(102)
	require.NoError(t, err)
	require.Equal(t, "container 102 (db): set hookscript: local:snippets/mine.sh, as before\n"+
		"container 102 (db): removed dev0: /dev/nvidiactl,mode=0666\n"+
		"container 102 (db): keep dev1: /dev/nvidia0,gid=44, it is not from enable\n"+
		"container 102 (db): removed dev2: /dev/nvidia-caps/nvidia-cap1,mode=0400\n", out)
	require.Equal(t, "dev1: /dev/nvidia0,gid=44\nhookscript: local:snippets/mine.sh\nhostname: db\n", n.conf(102))
}

// A guest of the cluster may come here, also by HA.
func TestFileOfAChainIsPutWhereTheChainedScriptIs(t *testing.T) {
	n := newNode(t)
	n.script("srv/shared/snippets/theirs.sh")
	n.file("etc/pve/nodes/pve2/lxc/201.conf", "hookscript: local:snippets/pve-nvidia-hook+mine.sh\n\n[before]\nhookscript: shared:snippets/pve-nvidia-hook+theirs.sh\n")
	n.file("etc/pve/nodes/pve2/lxc/202.conf", "hookscript: local:snippets/pve-nvidia-hook+not-here.sh\n")
	var out bytes.Buffer
	PlaceSnippets(n.o.Root, &out)
	require.Equal(t, "wrote /var/lib/vz/snippets/pve-nvidia-hook+mine.sh\nwrote /srv/shared/snippets/pve-nvidia-hook+theirs.sh\n", out.String())
	require.NoFileExists(t, filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook+not-here.sh"))
	out.Reset()
	PlaceSnippets(n.o.Root, &out)
	require.Empty(t, out.String())
}

func TestGuestsFileCannotChangeTheTerminal(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", "hostname: a\x1b]0;owned\abc\nhookscript: local:snippets/mine\x1b[31m.sh\ndev0: /dev/nvidia0,gid=\x1b[2J\n")
	n.script("var/lib/vz/snippets/mine\x1b[31m.sh")
	n.o.Chain = true
	for name, do := range map[string]func(...int) (string, error){"enable": n.enable, "disable": n.disable} {
		for _, n.o.DryRun = range []bool{true, false} {
			out, err := do(102)
			require.NoError(t, err)
			require.NotContains(t, out, "\x1b", name)
			require.Contains(t, out, "\\x1b", name)
		}
	}
}

func TestStateThatAnotherCouldHaveWrittenIsNotRead(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	file := stateFile(n.o.State, 102)
	for name, spoil := range map[string]func() error{
		"file of another":   func() error { return os.Chown(file, 1000, 1000) },
		"file for all":      func() error { return os.Chmod(file, 0o666) },
		"folder of another": func() error { return os.Chown(filepath.Dir(file), 1000, 1000) },
	} {
		require.NoError(t, spoil())
		_, err := ReadState(n.o.State, 102)
		require.ErrorContains(t, err, "could", name)
		_, err = n.disable(102)
		require.Error(t, err, name)
		require.Contains(t, n.conf(102), "dev0", name)
		require.NoError(t, os.Chown(file, 0, 0))
		require.NoError(t, os.Chmod(file, 0o644))
		require.NoError(t, os.Chown(filepath.Dir(file), 0, 0))
	}
}

func TestLostChainIsNotSetAgain(t *testing.T) {
	n := newNode(t)
	n.o.Chain, n.o.GPUs = true, "none"
	_, err := n.enable(101)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(n.o.Root, "var/lib/vz/snippets/mine.sh")))
	out, err := n.disable(101)
	require.NoError(t, err)
	require.Contains(t, out, "warning: the hookscript that was there before, local:snippets/mine.sh, does not exist any more")
	c := parse(t, n.conf(101))
	require.Empty(t, c.Hookscript)
	require.Len(t, c.Snapshots, 1, "snapshots stay")
}

func TestRunningContainerIsToldWhatWaits(t *testing.T) {
	n := newNode(t)
	t.Setenv("FAKEPCT_RUNNING", "102")
	before := n.conf(102)
	_, err := n.enable(102)
	require.NoError(t, err)
	enabled := n.conf(102)
	require.NotContains(t, enabled, "[pve:pending]", "new devices are plugged in at once")

	out, err := n.disable(102)
	require.NoError(t, err)
	require.Contains(t, out, "container 102 (db): part of the change takes effect at the next start: pct reboot 102\n")
	require.Contains(t, n.conf(102), "[pve:pending]\ndelete: dev0,dev1,")
	_, err = n.enable(102)
	require.NoError(t, err)
	require.Equal(t, enabled, n.conf(102), "the pending deletion is called off, no number is used twice")

	_, err = n.disable(102)
	require.NoError(t, err)
	t.Setenv("FAKEPCT_RUNNING", "")
	_, err = n.disable(102)
	require.NoError(t, err)
	require.NotEqual(t, before, enabled)
}

func TestDevicesThatWaitForARestartAreTakenBack(t *testing.T) {
	n := newNode(t)
	t.Setenv("FAKEPCT_PVE", "8") // plugs no device into a running container
	t.Setenv("FAKEPCT_RUNNING", "102")
	before := n.conf(102)
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "container 102 (db): part of the change takes effect at the next start: pct reboot 102\n")
	require.NotContains(t, out, "pve-nvidia-hook apply", "no devices are there before the restart")
	c := parse(t, n.conf(102))
	require.Empty(t, c.Dev)
	require.Len(t, c.Pending.Dev, 6)
	require.Equal(t, DefaultVolume, c.Hookscript)

	n.o.GPUs = "0"
	_, err = n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, n.conf(102), "/dev/nvidia1,")
	require.Contains(t, n.conf(102), "[pve:pending]\ndev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia0,mode=0666\n")

	_, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, before, n.conf(102))
	require.NoFileExists(t, stateFile(n.o.State, 102))

	_, err = n.enable(102)
	require.NoError(t, err)
	t.Setenv("FAKEPCT_RUNNING", "") // it was stopped, and not started since
	_, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, before, n.conf(102))
}

func TestFailedHotplugLeavesTheHookscript(t *testing.T) {
	n := newNode(t)
	t.Setenv("FAKEPCT_RUNNING", "102")
	t.Setenv("FAKEPCT_HOTPLUG_FAILS", "dev3")
	out, err := n.enable(102)
	require.ErrorContains(t, err, "container 102 (db): pct set 102: dev3: unable to hotplug dev3: move_mount failed")
	require.Contains(t, hint.Of(err), "stop the container first")
	require.Contains(t, out, "container 102 (db): only part of the change was made")
	c := parse(t, n.conf(102))
	require.Equal(t, DefaultVolume, c.Hookscript)
	require.Empty(t, c.Next().Dev)
	state, err := ReadState(n.o.State, 102)
	require.NoError(t, err)
	require.Equal(t, State{Hookscript: DefaultVolume, GPUs: "all"}, state)
}

func TestDeviceThatIsGoneLeavesTheHookscript(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.Remove(filepath.Join(n.o.Root, "dev/nvidia-uvm")))
	_, err := n.enable(102)
	require.ErrorContains(t, err, "Device /dev/nvidia-uvm does not exist")
	require.Contains(t, hint.Of(err), "pve-nvidia-hook devices")
	require.Equal(t, "arch: amd64\nhookscript: local:snippets/pve-nvidia-hook\nhostname: db\nostype: debian\n", n.conf(102))
}

func TestEnableThatFailedIsNoChoiceOfNoGPU(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", "hostname: db\nhookscript: local:snippets/pve-nvidia-hook\n")
	right := n.o.Pct
	n.o.Pct = saying(t, "CT is locked (backup)\n")
	said, err := n.enable(102)
	require.Error(t, err)
	require.NoFileExists(t, stateFile(n.o.State, 102))
	require.NotContains(t, said, "set dev0", "nothing was set")

	n.o.Pct, n.o.GPUs = right, "none"
	_, err = n.enable(102)
	require.NoError(t, err)
	state, err := ReadState(n.o.State, 102)
	require.NoError(t, err)
	require.Equal(t, State{Hookscript: DefaultVolume, GPUs: "none", None: true}, state)
}

func TestMissingDeviceThatGoesIsNoFailure(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(n.o.Root, "dev/nvidia1")))
	n.o.Present, n.o.Storage = nodes[1:], "shared"
	_, err = n.enable(102)
	require.NoError(t, err, "the call that sets the hookscript fails after it is written")
	require.Contains(t, n.conf(102), "hookscript: shared:snippets/pve-nvidia-hook")
	require.NotContains(t, n.conf(102), "/dev/nvidia1,")
}

func TestRefusalsNameTheWayOut(t *testing.T) {
	for _, c := range []struct {
		name  string
		vmids []int
		set   func(*node)
		err   string
		hint  string
	}{
		{"unknown", []int{999}, nil, "there is no container 999", "the containers of this node are 101 (web) and 102 (db)"},
		{"vm", []int{110}, nil, "110 (win) is a virtual machine, not a container", "PCI passthrough"},
		{"other node", []int{201}, nil, "container 201 (far) is on node pve2, this is pve1", "run it on pve2"},
		{"one of two unknown", []int{102, 999}, nil, "there is no container 999", ""},
		{"no such storage", []int{102}, func(n *node) { n.o.Storage = "nowhere" }, `there is no storage "nowhere"`, "local, nas, shared"},
		{"storage without folder", []int{102}, func(n *node) { n.o.Storage = "local-lvm" }, "storage local-lvm (lvmthin) cannot hold snippets", ""},
		{"storage not mounted", []int{102}, func(n *node) { n.o.Storage = "nas" }, "storage nas is not mounted", "pvesm status"},
		{"foreign snippet", []int{102}, func(n *node) { n.script("var/lib/vz/snippets/pve-nvidia-hook") }, "is not a script of pve-nvidia-hook", "move it away"},
		{"backup runs", []int{102}, func(n *node) { n.file("etc/pve/nodes/pve1/lxc/102.conf", "hostname: db\nlock: backup\n") }, "container 102 (db): pct set 102: CT is locked (backup)", "wait for the backup"},
		{"no pct", []int{102}, func(n *node) { n.o.Pct = "no-such-pct" }, "there is no pct on this machine", "node of Proxmox VE"},
		{"no proxmox", []int{102}, func(n *node) { os.RemoveAll(filepath.Join(n.o.Root, "etc/pve")) }, "this machine is not a Proxmox VE node", ""},
		{"pmxcfs down", []int{102}, func(n *node) { os.RemoveAll(filepath.Join(n.o.Root, "etc/pve/nodes")) }, "the cluster file system is not mounted", "pve-cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			if c.set != nil {
				c.set(&n)
			}
			before, _ := os.ReadFile(filepath.Join(n.o.Root, "etc/pve/nodes/pve1/lxc/102.conf"))
			_, err := n.enable(c.vmids...)
			require.ErrorContains(t, err, c.err)
			require.Contains(t, hint.Of(err), c.hint)
			after, _ := os.ReadFile(filepath.Join(n.o.Root, "etc/pve/nodes/pve1/lxc/102.conf"))
			require.Equal(t, string(before), string(after))
			require.NoFileExists(t, stateFile(n.o.State, 102), "what was not set is not remembered")
		})
	}
}

func TestOnlyRootMaySetHookscripts(t *testing.T) {
	n := newNode(t)
	for _, dir := range []string{filepath.Dir(n.o.Root), n.o.Root} {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	before, err := os.ReadFile(filepath.Join(n.o.Root, "etc/pve/nodes/pve1/lxc/102.conf"))
	require.NoError(t, err)
	for name, try := range map[string]func(...int) (string, error){"enable": n.enable, "disable": n.disable} {
		said := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			// Of this thread alone, unlike syscall.Setresuid.
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
				said <- e
				return
			}
			_, err := try(102)
			said <- err
		}()
		err := <-said
		require.ErrorContains(t, err, "not root", name)
		require.Contains(t, hint.Of(err), "run it as root", name)
	}
	after, err := os.ReadFile(filepath.Join(n.o.Root, "etc/pve/nodes/pve1/lxc/102.conf"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	require.NoDirExists(t, n.o.State)
}

func TestHeldLockIsExplained(t *testing.T) {
	n := newNode(t)
	t.Setenv("FAKEPCT_LOCK_TIMEOUT", "1ms")
	n.file("run/lock/lxc/pve-config-102.lock", "")
	f, err := os.Open(filepath.Join(n.o.Root, "run/lock/lxc/pve-config-102.lock"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	_, err = n.enable(102)
	require.EqualError(t, err, "container 102 (db): pct set 102: can't lock file '/run/lock/lxc/pve-config-102.lock' - got timeout")
	require.Contains(t, hint.Of(err), "another task holds the container's lock")
}

func TestOneFailureDoesNotStopTheOthers(t *testing.T) {
	n := newNode(t)
	n.o.GPUs = "none"
	n.o.Chain = true
	n.file("etc/pve/nodes/pve1/lxc/101.conf", "hostname: web\nlock: backup\n")
	out, err := n.enable(101, 102)
	require.ErrorContains(t, err, "container 101 (web): pct set 101: CT is locked (backup)")
	require.Contains(t, out, "next: pct start 102\n")

	n.file("etc/pve/nodes/pve1/lxc/101.conf", "hostname: web\ntemplate: 1\n")
	out, err = n.enable(101)
	require.NoError(t, err)
	require.NotContains(t, out, "next: ", "a template is never started")
	require.Contains(t, n.conf(102), "hookscript: local:snippets/pve-nvidia-hook")
}

func TestSharedStorageNeedsNoPackageElsewhere(t *testing.T) {
	n := newNode(t)
	n.o.Storage, n.o.GPUs = "shared", "none"
	out, err := n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, out, "pve2")
	require.FileExists(t, filepath.Join(n.o.Root, "srv/shared/snippets/pve-nvidia-hook"))
	require.Contains(t, n.conf(102), "hookscript: shared:snippets/pve-nvidia-hook")

	n.o.Storage = ""
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "nothing to change", "without --storage the one that is set stays")

	n.o.Storage = "local"
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "a container that migrates to pve2 does not start there without the file of local:snippets/pve-nvidia-hook")

	n.o.GPUs = "all"
	n.o.Chain = true
	n.file("etc/pve/nodes/pve1/lxc/101.conf", "hookscript: local:snippets/mine.sh\n")
	n.script("var/lib/vz/snippets/mine.sh")
	out, err = n.enable(101, 102)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(out, "a container that migrates to pve2"), out)
	require.Equal(t, 1, strings.Count(out, "only on nodes that have those devices"), out)
}

func TestStorageThatIsMountedLateIsWarnedOf(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.o.Root, "mnt/pve/nas")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mounting needs more rights: ", err)
	}
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	n.o.Storage, n.o.GPUs = "nas", "none"
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "warning: Proxmox VE does not mount storage nas for a hookscript")
	n.file("etc/fstab", "# /dev/sda1 /mnt/pve/nas\n192.0.2.1:/nas /mnt/pve/nas/ nfs defaults,_netdev 0 0\n")
	out, err = n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, out, "warning")
}

func TestSnippetIsNotPutWhereNoProgramRuns(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.o.Root, "srv/shared")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=64k"); err != nil {
		t.Skip("mounting needs more rights: ", err)
	}
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	n.o.Storage, n.o.GPUs = "shared", "none"
	_, err := n.enable(102)
	require.EqualError(t, err, "no program can be run from /srv/shared/snippets: its file system is mounted noexec")
	require.Contains(t, hint.Of(err), "without noexec")
	require.NoDirExists(t, filepath.Join(dir, "snippets"))
	require.NotContains(t, n.conf(102), "hookscript")
}

func TestGoneContainerIsForgotten(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(n.o.Root, "etc/pve/lxc/102.conf")))
	out, err := n.disable(102)
	require.NoError(t, err)
	require.Equal(t, "container 102: it does not exist any more, so its record of enable was removed\n", out)
	require.NoFileExists(t, stateFile(n.o.State, 102))
	_, err = n.disable(102)
	require.ErrorContains(t, err, "there is no container 102")
}

func TestTwoAtOnceSetOneAfterTheOther(t *testing.T) {
	n := newNode(t)
	errs := make(chan error, 2)
	for _, gpus := range []string{"none", "all"} {
		o := n.o
		o.GPUs = gpus
		go func() { errs <- Enable(context.Background(), o, []int{102}, io.Discard) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	state, err := ReadState(n.o.State, 102)
	require.NoError(t, err)
	require.Equal(t, parse(t, n.conf(102)).Dev, state.Dev, "what stands is what is remembered")
}

func TestGuestsOfAllNodesAreFound(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/nodes/pve2/qemu-server/210.conf", "name: odd\n")
	n.file("etc/pve/nodes/pve2/lxc/notes.conf", "hookscript: local:snippets/pve-nvidia-hook\n")
	guests, err := Guests(n.o.Root)
	require.NoError(t, err)
	require.Len(t, guests, 5)
	require.Equal(t, "pve1", LocalNode(n.o.Root))
}

func TestStateFolderIsMadeForRootAlone(t *testing.T) {
	n := newNode(t)
	_, err := n.enable(102)
	require.NoError(t, err)
	info, err := os.Stat(n.o.State)
	require.NoError(t, err)
	require.EqualValues(t, 0o700, info.Mode().Perm())

	require.NoError(t, os.Chmod(n.o.State, 0o777))
	_, err = n.enable(102)
	require.ErrorContains(t, err, "others than root could replace")
}
