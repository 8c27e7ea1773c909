package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// pveNode is a root folder with what enable needs of a node: three containers,
// two GPUs, and a stand-in for pct on PATH.
func pveNode(t *testing.T, config string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("device nodes need root")
	}
	root, bin := t.TempDir(), t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "pct"), "../test/fakepct").CombinedOutput()
	require.NoError(t, err, string(out))
	file := func(name, text string) string {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	for _, vmid := range []string{"101", "102", "103"} {
		file("etc/pve/nodes/pve1/lxc/"+vmid+".conf", "arch: amd64\nhostname: ct"+vmid+"\n")
	}
	require.NoError(t, os.Symlink("nodes/pve1", filepath.Join(root, "etc/pve/local")))
	require.NoError(t, os.Symlink("nodes/pve1/lxc", filepath.Join(root, "etc/pve/lxc")))
	file("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n")
	file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.142  Tue Mar  3 19:14:46 UTC 2026\n")
	file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Device Minor: \t 0\n")
	file("proc/driver/nvidia/gpus/0000:02:00.0/information", "Device Minor: \t 1\n")
	file("proc/devices", "Character devices:\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n")
	state := filepath.Join(t.TempDir(), "state")
	t.Setenv("PVE_NVIDIA_HOOK_CONFIG", file("config.toml", config+"\n[paths]\nstate = \""+state+"\"\n"))
	t.Setenv("PVE_NVIDIA_HOOK_HOST_ROOT", root)
	t.Setenv("FAKEPCT_ROOT", root)
	t.Setenv("FAKEPCT_RUNNING", "")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return root
}

// typed runs a command line and returns what it said on stdout.
func typed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := Root()
	root.SetArgs(args)
	root.SetOut(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func conf(t *testing.T, root, vmid string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "etc/pve/lxc", vmid+".conf"))
	require.NoError(t, err)
	return string(text)
}

func TestEnableGivesTheGPUsOfTheConfigurationUnlessTold(t *testing.T) {
	root := pveNode(t, "[containers.101]\ngpus = \"1\"\n[containers.103]\ngpus = \"none\"\n")
	before := conf(t, root, "101")
	_, err := typed(t, "enable", "101", "102", "103")
	require.NoError(t, err)
	require.NotContains(t, conf(t, root, "101"), "/dev/nvidia0,")
	require.Contains(t, conf(t, root, "101"), "/dev/nvidia1,mode=0666")
	require.Contains(t, conf(t, root, "102"), "/dev/nvidia0,")
	require.Contains(t, conf(t, root, "102"), "/dev/nvidia1,")
	require.NotContains(t, conf(t, root, "103"), "/dev/nvidia")
	require.Contains(t, conf(t, root, "103"), "hookscript: local:snippets/pve-nvidia-hook")

	_, err = typed(t, "enable", "101", "--gpus", "0")
	require.NoError(t, err)
	require.Contains(t, conf(t, root, "101"), "/dev/nvidia0,")
	require.NotContains(t, conf(t, root, "101"), "/dev/nvidia1,")

	said, err := typed(t, "disable", "101")
	require.NoError(t, err)
	require.Contains(t, said, "container 101: what was installed in it stays until you run pve-nvidia-hook uninstall 101, while it runs;")
	require.Equal(t, before, conf(t, root, "101"))
	said, err = typed(t, "disable", "101")
	require.NoError(t, err)
	require.NotContains(t, said, "uninstall", "it was not enabled")
}

func TestEnableMakesTheHostsNodesFirst(t *testing.T) {
	root := pveNode(t, "")
	said, err := typed(t, "enable", "101", "--dry-run")
	require.NoError(t, err)
	require.Contains(t, said, "would make the missing device nodes")
	require.Contains(t, said, "would set dev3: /dev/nvidia-uvm,mode=0666")
	require.NoDirExists(t, filepath.Join(root, "dev"), said)

	said, err = typed(t, "enable", "101")
	require.NoError(t, err)
	require.Contains(t, said, "made /dev/nvidia-uvm")
	require.Contains(t, said, "refuse driver packages of the distribution")
	again, err := typed(t, "enable", "101")
	require.NoError(t, err)
	require.NotContains(t, again, "refuse driver packages", "it was told when the container was enabled")
	require.Contains(t, conf(t, root, "101"), "/dev/nvidia-uvm-tools,mode=0666")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(root, "dev/nvidia-uvm"), &st))
	require.EqualValues(t, 511, unix.Major(uint64(st.Rdev)))
	said, err = typed(t, "devices")
	require.NoError(t, err)
	require.Contains(t, said, "all 5 device nodes are in place")
}

func TestEnableThatIsRefusedChangesNothing(t *testing.T) {
	for _, args := range [][]string{{"101", "--gpus", "0,x"}, {"101", "--gpus", "7"}, {"101", "--storage", "nowhere"}, {"555"}, {"101", "555"}, {"101"}} {
		root := pveNode(t, "")
		if len(args) == 1 && args[0] == "101" { // a machine without pct
			t.Setenv("PATH", t.TempDir())
		}
		said, err := typed(t, append([]string{"enable"}, args...)...)
		require.Error(t, err)
		require.Empty(t, said)
		require.NoDirExists(t, filepath.Join(root, "dev"))
		require.NoDirExists(t, filepath.Join(root, "var"))
	}
}

func TestEachMistakeIsNamedOnce(t *testing.T) {
	root := pveNode(t, "")
	put := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
	}
	put("etc/pve/nodes/pve1/qemu-server/150.conf", "name: win\n")
	put("var/lib/vz/snippets/mine.sh", "#!/bin/sh\n")
	for _, vmid := range []string{"102", "103"} {
		put("etc/pve/lxc/"+vmid+".conf", "hookscript: local:snippets/mine.sh\n")
	}
	_, err := typed(t, "disable", "150", "555")
	require.EqualError(t, err, "150 (win) is a virtual machine, not a container\nthere is no container 555")
	_, err = typed(t, "enable", "101", "102", "103")
	require.EqualError(t, err, "container 102 has a hookscript already: local:snippets/mine.sh\ncontainer 103 has a hookscript already: local:snippets/mine.sh; nothing was changed")
	_, err = typed(t, "enable", "101", "--all")
	require.EqualError(t, err, "name the containers, or give --all instead")
	put("etc/pve/lxc/101.conf", "entrypoint: /opt/x\n")
	said, err := typed(t, "enable", "101", "101", "--dry-run")
	require.NoError(t, err)
	require.Contains(t, said, "container 101: note: init is /opt/x, ")
}

func TestDisableWithoutPctSaysNothingAsDone(t *testing.T) {
	root := pveNode(t, "")
	_, err := typed(t, "enable", "101")
	require.NoError(t, err)
	before := conf(t, root, "101")
	t.Setenv("PATH", t.TempDir())
	said, err := typed(t, "disable", "101")
	require.ErrorContains(t, err, "there is no pct on this machine")
	require.Empty(t, said)
	require.Equal(t, before, conf(t, root, "101"))
}

func TestUnitLeavesAGPUAloneThatNoContainerHas(t *testing.T) {
	root := pveNode(t, "")
	require.NoError(t, os.RemoveAll(filepath.Join(root, "proc/driver")))
	file := func(name, text string) {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n") // not bound to anything yet
	file("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
	_, err := typed(t, "devices")
	require.ErrorContains(t, err, "its kernel module nvidia is not loaded", "who asks is told")

	said, err := typed(t, "devices", "--if-needed")
	require.NoError(t, err)
	require.Equal(t, "the kernel module nvidia is not loaded and no container has devices of it, there is nothing to do\n", said)

	file("etc/pve/nodes/pve2/lxc/201.conf", "dev0: /dev/nvidia0\n")
	said, err = typed(t, "devices", "--if-needed")
	require.NoError(t, err)
	require.Contains(t, said, "warning: the host has an NVIDIA GPU, but its kernel module nvidia is not loaded; no container of this node")

	for _, conf := range []string{"dev0: path=/dev/nvidia0\n", "[pve:pending]\ndev0: /dev/nvidiactl\n",
		"lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file\n", "hookscript: local:snippets/pve-nvidia-hook\n"} {
		file("etc/pve/nodes/pve1/lxc/101.conf", conf)
		_, err = typed(t, "devices", "--if-needed")
		require.Error(t, err, conf)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/pve/nodes")))
	_, err = typed(t, "devices", "--if-needed")
	require.Error(t, err, "what cannot be told counts as needed")
}

func TestEnableSaysWhenTheHookWillDoNothing(t *testing.T) {
	pveNode(t, "[containers.101]\nenabled = false\n")
	said, err := typed(t, "enable", "101")
	require.NoError(t, err)
	require.Contains(t, said, "container 101: warning: the hook will do nothing there")
}

func TestWrongArgumentsOfEnableAreWrongUsage(t *testing.T) {
	pveNode(t, "")
	for _, args := range [][]string{{"enable"}, {"enable", "x"}, {"disable"}, {"disable", "1"}, {"devices", "101"}, {"enable", "101", "--no-such"}} {
		_, err := typed(t, args...)
		require.ErrorAs(t, err, new(usage), "%v", args)
	}
}

func TestEnableWithChainTellsTheHookWhatToRun(t *testing.T) {
	root := pveNode(t, "")
	mine := filepath.Join(root, "var/lib/vz/snippets/mine.sh")
	require.NoError(t, os.MkdirAll(filepath.Dir(mine), 0o755))
	require.NoError(t, os.WriteFile(mine, []byte("#!/bin/sh\necho $* >>"+root+"/calls\nexit 3\n"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/lxc/101.conf"), []byte("arch: amd64\nhookscript: local:snippets/mine.sh\n"), 0o640))
	_, err := typed(t, "enable", "101", "--gpus", "none")
	require.ErrorContains(t, err, "has a hookscript already: local:snippets/mine.sh")

	_, err = typed(t, "enable", "101", "--gpus", "none", "--chain")
	require.NoError(t, err)
	t.Setenv(snippet.Env, filepath.Join(root, "var/lib/vz/snippets", snippet.Chaining("mine.sh"))) // which calls
	require.Equal(t, 3, call([]string{"101", "pre-start"}))
	calls, err := os.ReadFile(filepath.Join(root, "calls"))
	require.NoError(t, err)
	require.Equal(t, "101 pre-start\n", string(calls))

	_, err = typed(t, "disable", "101")
	require.NoError(t, err)
	require.Contains(t, conf(t, root, "101"), "hookscript: local:snippets/mine.sh")
}

// call is Proxmox's, of a phase in which nothing is left to a worker.
func call(args []string) int { return hook.Call(context.Background(), args) }

func TestDisableBringsBackWhatTheConfigurationChains(t *testing.T) {
	root := pveNode(t, "[containers.101]\nchain = \"local:snippets/mine.sh\"\n")
	file := func(name, text string) {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o755))
	}
	file("var/lib/vz/snippets/mine.sh", "#!/bin/sh\n")
	file("etc/pve/lxc/101.conf", "hookscript: local:snippets/pve-nvidia-hook\n") // enabled on another node
	_, err := typed(t, "disable", "101")
	require.NoError(t, err)
	require.Equal(t, "hookscript: local:snippets/mine.sh\n", conf(t, root, "101"))
}

// card writes what the driver says of one.
func card(t *testing.T, root, address, model, uuid string, minor int) {
	t.Helper()
	file := filepath.Join(root, "proc/driver/nvidia/gpus", address, "information")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "Model: \t %s\nGPU UUID: \t %s\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Excluded:\t No\n", model, uuid, address, minor), 0o644))
}

func TestCardsAreListedWithTheirContainers(t *testing.T) {
	root := pveNode(t, "")
	card(t, root, "0000:01:00.0", "NVIDIA A10", "GPU-aaaa", 1)
	card(t, root, "0000:02:00.0", "NVIDIA L4", "GPU-bbbb", 0)
	_, err := typed(t, "enable", "101", "102", "--gpus", "GPU-bb")
	require.NoError(t, err)
	said, err := typed(t, "devices", "--list")
	require.NoError(t, err)
	require.Equal(t, "GPU 0: NVIDIA A10\n  GPU-aaaa\n  0000:01:00.0, /dev/nvidia1\n  containers: -\n"+
		"GPU 1: NVIDIA L4\n  GPU-bbbb\n  0000:02:00.0, /dev/nvidia0\n  containers: 101 (ct101), 102 (ct102)\n", said)

	var out bytes.Buffer
	mig := []host.GPU{{Model: "NVIDIA A30", UUID: "GPU-5c4f7f3e", Address: "0000:01:00.0", Instances: []host.Instance{{GPU: 3}}}}
	printCards(&out, mig, nil)
	require.Equal(t, "GPU 0: NVIDIA A30\n  GPU-5c4f7f3e\n  0000:01:00.0, /dev/nvidia0\n  containers: -\n  0:0: MIG GPU instance 3, compute instance 0\n", out.String())
}

func TestEnableAllGivesEachItsOwnCardsAgain(t *testing.T) {
	root := pveNode(t, "[containers.103]\ngpus = \"1\"\n")
	card(t, root, "0000:01:00.0", "NVIDIA A10", "GPU-aaaa", 0)
	card(t, root, "0000:02:00.0", "NVIDIA L4", "GPU-bbbb", 1)
	_, err := typed(t, "enable", "101", "--gpus", "1")
	require.NoError(t, err)
	_, err = typed(t, "enable", "102", "--gpus", "none")
	require.NoError(t, err)
	before := conf(t, root, "102")

	card(t, root, "0000:01:00.0", "NVIDIA A10", "GPU-aaaa", 1)
	card(t, root, "0000:02:00.0", "NVIDIA L4", "GPU-bbbb", 0)
	said, err := typed(t, "devices")
	require.NoError(t, err)
	require.Contains(t, said, "warning: container 101 (ct101): /dev/nvidia1 is now NVIDIA A10 (GPU 0, ")
	require.Contains(t, said, "correct it with: pve-nvidia-hook enable 101\n")

	_, err = typed(t, "enable", "--all")
	require.NoError(t, err)
	require.Contains(t, conf(t, root, "101"), "/dev/nvidia0,")
	require.NotContains(t, conf(t, root, "101"), "/dev/nvidia1,")
	require.Equal(t, before, conf(t, root, "102"))
	require.NotContains(t, conf(t, root, "103"), "hookscript", "it was never enabled")
	said, err = typed(t, "devices")
	require.NoError(t, err)
	require.NotContains(t, said, "warning")
	_, err = typed(t, "enable", "101", "--all")
	require.ErrorAs(t, err, new(usage))
}

func TestEnableRemembersTheWishForDockerBelowTheConfiguration(t *testing.T) {
	root := pveNode(t, "[containers]\n103.docker.toolkit = false\n")
	said, err := typed(t, "enable", "101", "103", "--docker")
	require.NoError(t, err)
	require.Contains(t, said, "container 103: warning: --docker changes nothing: docker.toolkit is false in "+filepath.Join(root, "config.toml")+":2\n")
	require.NotContains(t, said, "container 101: warning")
	shown := func(vmid string) string {
		said, err := typed(t, "config", "show", vmid)
		require.NoError(t, err)
		return said
	}
	require.Regexp(t, `(?m)^docker\.toolkit = true  # enable --docker$`, shown("101"))
	require.Regexp(t, `(?m)^docker\.toolkit = false  # default$`, shown("102"))
	require.Regexp(t, `(?m)^docker\.toolkit = false  # /.*config\.toml:2$`, shown("103"))

	_, err = typed(t, "enable", "--all")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^docker\.toolkit = true  # enable --docker$`, shown("101"))
	said, err = typed(t, "enable", "101", "--docker=false")
	require.NoError(t, err)
	require.NotContains(t, said, "warning: --docker")
	require.Regexp(t, `(?m)^docker\.toolkit = false  # default$`, shown("101"))
}

func TestEnableTellsBeforeThatAnApplicationNeedsAReboot(t *testing.T) {
	root := pveNode(t, "[containers]\n102.reboot = true\n")
	for _, vmid := range []string{"101", "102"} {
		file := filepath.Join(root, "etc/pve/lxc", vmid+".conf")
		require.NoError(t, os.WriteFile(file, []byte("arch: amd64\nentrypoint: /usr/bin/ollama serve\n"), 0o644))
	}
	said, err := typed(t, "enable", "101", "102", "103")
	require.NoError(t, err)
	require.Regexp(t, `(?s)container 101: note: init is /usr/bin/ollama serve, .*pct reboot 101.*set hookscript`, said)
	require.Equal(t, 1, strings.Count(said, "so services cannot be restarted"), said)
	said, err = typed(t, "enable", "101", "102", "103")
	require.NoError(t, err)
	require.NotContains(t, said, "cannot be restarted", "it was told when the container was enabled")
}

func TestEnableLooksForSystemdInARunningContainer(t *testing.T) {
	l := labtest.Open(t)
	root := pveNode(t, "")
	f, err := os.OpenFile(os.Getenv("PVE_NVIDIA_HOOK_CONFIG"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	fmt.Fprintf(f, "lxc = %q\n", l.Path)
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/lxc/101.conf"), []byte("arch: amd64\nentrypoint: /usr/local/bin/boot\n"), 0o644))
	booted := labtest.StartIn(t, l, lab.Spec{VMID: 101, Systemd: true})
	require.NoError(t, booted.WaitBooted(t.Context()))
	labtest.StartIn(t, l, lab.Spec{VMID: 102})
	labtest.StartIn(t, l, lab.Spec{VMID: 104})
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/lxc/104.conf"), []byte("arch: amd64\n"), 0o644))
	said, err := typed(t, "enable", "101", "102", "103", "104")
	require.NoError(t, err)
	require.NotContains(t, said, "containers 101", "it starts systemd")
	require.Contains(t, said, "containers 102 104: note: no systemd, so services cannot be restarted: run pct reboot VMID ")
	require.Contains(t, said, "next: pve-nvidia-hook apply 101 102 104; pct start 103\n")
}

func TestEnableSharesTheDriverAndDisableTakesItBack(t *testing.T) {
	root := pveNode(t, "")
	before := conf(t, root, "101") + "unprivileged: 1\n"
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/lxc/101.conf"), []byte(before+"\n[snap]\narch: amd64\n"), 0o640))
	said, err := typed(t, "enable", "101", "--share", "--gpus", "none", "--dry-run")
	require.NoError(t, err)
	require.Contains(t, said, "would set the line that mounts the shared driver")
	require.NotContains(t, said, "once the driver is installed")
	require.NotContains(t, conf(t, root, "101"), "lxc.mount.entry")

	said, err = typed(t, "enable", "101", "--share")
	require.NoError(t, err)
	require.Contains(t, said, "next: pct start 101\n")
	const entry = "lxc.mount.entry: /run/pve-nvidia-hook/driver usr/lib/pve-nvidia-hook/driver none bind,ro,create=dir,optional 0 0\n"
	live, snapshot, _ := strings.Cut(conf(t, root, "101"), "\n[snap]\n")
	require.Contains(t, live, entry)
	require.Contains(t, live, "hookscript: local:snippets/pve-nvidia-hook")
	require.Equal(t, "arch: amd64\n", snapshot)

	// pct keeps the line, and an enable that says nothing of it does too.
	for _, args := range [][]string{{"enable", "101", "--gpus", "0"}, {"enable", "101", "--share"}} {
		said, err = typed(t, args...)
		require.NoError(t, err)
		require.NotContains(t, said, "shared driver", args)
		require.Equal(t, 1, strings.Count(conf(t, root, "101"), entry))
	}
	_, err = typed(t, "enable", "101", "--share=false")
	require.NoError(t, err)
	require.NotContains(t, conf(t, root, "101"), "lxc.mount.entry")
	_, err = typed(t, "enable", "101", "102", "--share")
	require.NoError(t, err)
	require.Contains(t, conf(t, root, "102"), "lxc.mount.entry: overlay usr/lib/pve-nvidia-hook/driver overlay ro,", "a privileged one has a file system of its own")
	said, err = typed(t, "disable", "101", "102")
	require.NoError(t, err)
	require.Contains(t, said, "removed the line that mounts the shared driver")
	require.Equal(t, before, strings.Split(conf(t, root, "101"), "\n[snap]\n")[0])
}

func TestDisableSaysEachMistakeOnce(t *testing.T) {
	root := pveNode(t, "")
	_, err := typed(t, "disable", "998", "999")
	require.Error(t, err)
	require.Equal(t, 1, strings.Count(err.Error(), "998"), err)
	require.Equal(t, 1, strings.Count(err.Error(), "999"), err)
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/pve")))
	_, err = typed(t, "disable", "101", "102")
	require.Error(t, err)
	require.Equal(t, 1, strings.Count(err.Error(), "is not a Proxmox VE node"), err)
}

func TestTheConfigurationHasEnableShare(t *testing.T) {
	root := pveNode(t, "[containers.101]\ndeliver = \"share\"\n")
	_, err := typed(t, "enable", "101", "102")
	require.NoError(t, err)
	require.Contains(t, conf(t, root, "101"), " usr/lib/pve-nvidia-hook/driver ")
	require.NotContains(t, conf(t, root, "102"), "lxc.mount.entry")
}

// Each reason is told before anything is changed, with installing as the way.
func TestEnableSaysWhereTheDriverCannotBeShared(t *testing.T) {
	for name, c := range map[string]struct{ set, said string }{
		"a folder above is closed":   {"run = \"DIR/run\"\n", "unprivileged containers cannot mount from DIR/run: others may not enter DIR"},
		"a blank in the run folder":  {"run = \"/run/my hook\"\n", "a container cannot mount from \"/run/my hook\""},
		"a colon in the run folder":  {"run = \"/run/my:hook\"\n", "a container cannot mount from \"/run/my:hook\""},
		"no overlay of the cache":    {"[cache]\ndir = \"DIR\"\n", "share the driver: no mount is available that is safe from the container: overlay of DIR: it lies on FUSE"},
		"the cache is still to make": {"[cache]\ndir = \"DIR/cache\"\n", "overlay of DIR: it lies on FUSE"},
	} {
		t.Run(name, func(t *testing.T) {
			root, dir := pveNode(t, ""), t.TempDir()
			if strings.Contains(c.set, "[cache]") {
				labtest.Program(t, "bindfs")
				out, err := exec.CommandContext(t.Context(), "bindfs", t.TempDir(), dir).CombinedOutput()
				require.NoError(t, err, string(out))
				t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
			} else {
				require.NoError(t, os.Chmod(dir, 0o700))
			}
			file := filepath.Join(root, "config.toml")
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, append(text, strings.ReplaceAll(c.set, "DIR", dir)...), 0o644))
			before := conf(t, root, "101")
			_, err = typed(t, "enable", "101", "--share")
			require.ErrorContains(t, err, strings.ReplaceAll(c.said, "DIR", dir))
			require.Contains(t, hint.Of(err), "install the driver in the container: enable it without --share")
			require.Equal(t, before, conf(t, root, "101"))
			_, err = typed(t, "enable", "101")
			require.NoError(t, err)
		})
	}
}

// What a shared driver does not heed is told, and what to do next fits it.
func TestEnableTellsWhatSharingMeans(t *testing.T) {
	pveNode(t, "[driver]\ncapabilities = [\"compute\"]\n[containers]\n101.version = \"550.163.01\"\n")
	said, err := typed(t, "enable", "101", "--share")
	require.NoError(t, err)
	require.Contains(t, said, "container 101: note: capabilities (")
	require.Contains(t, said, "the shared driver has all but display\n")
	require.Contains(t, said, "warning: driver 550.163.01 is wanted (")
	require.Contains(t, said, "always that of the host's kernel module, 580.142")
	require.Contains(t, said, "next: pct start 101\n")
	require.Equal(t, 1, strings.Count(said, "next: "))
	said, err = typed(t, "enable", "101", "--share=false")
	require.NoError(t, err)
	require.NotContains(t, said, "capabilities")
	require.Contains(t, said, "next: pve-nvidia-hook apply 101 installs the driver now")
	said, err = typed(t, "enable", "102", "--share")
	require.NoError(t, err)
	require.NotContains(t, said, "warning: driver")
	said, err = typed(t, "disable", "102", "--dry-run")
	require.NoError(t, err)
	require.NotContains(t, said, "uninstall")
	said, err = typed(t, "disable", "102")
	require.NoError(t, err)
	require.Contains(t, said, "until you run pve-nvidia-hook uninstall 102")
}
