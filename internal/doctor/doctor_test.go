package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

func TestNothingIsFoundWhereAllIsWell(t *testing.T) {
	n := newNode(t)
	r := n.examine()
	require.Empty(t, lines(r.Findings))
	require.False(t, r.Problems())
	require.Equal(t, map[int]string{0: "pve1", 101: "web"}, r.Names)
}

// Each case breaks one thing, and one finding names it.
func TestEachFaultIsNamedWithItsFix(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(node)
		want  string
	}{
		"module not loaded": {
			func(n node) { n.remove("proc/driver") },
			"0 problem kernel-module: the host has an NVIDIA GPU, but the kernel module nvidia is not loaded | modprobe nvidia; dmesg says why it is not loaded",
		},
		"odd module version": {
			func(n node) { n.file("proc/driver/nvidia/version", "something new\n") },
			"0 problem kernel-module: read the kernel module's version",
		},
		"no GPU": {
			func(n node) { n.remove("proc/driver", "sys/bus/pci/devices/0000:01:00.0") },
			"0 problem kernel-module: this host has no NVIDIA GPU and NVIDIA's kernel module is not loaded | if the host has one, see whether lspci -d 10de: lists it; for a container that needs no GPU: pve-nvidia-hook disable VMID",
		},
		"GPU in a VM": {
			func(n node) {
				n.remove("proc/driver")
				n.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../../bus/pci/drivers/vfio-pci")
			},
			"0 problem kernel-module: the GPUs of this host are reserved for virtual machines (vfio-pci has GPU 0000:01:00.0), and NVIDIA's kernel module is not loaded",
		},
		"host upgraded, not rebooted": {
			func(n node) {
				n.remove("usr/lib")
				n.file("usr/lib/"+arch(n.T)+"-linux-gnu/libnvidia-ml.so.590.48.01", "")
			},
			"0 warning host-driver: the host's own libraries are of driver 590.48.01, its loaded kernel module is 580.142: the host was upgraded and not rebooted, and after the reboot the containers need 590.48.01 | reboot",
		},
		"nouveau beside nvidia": {
			func(n node) { n.file("proc/modules", "nouveau 1 0 - Live 0x0\n") },
			"0 warning nouveau: nouveau is loaded",
		},
		"uvm node missing": {
			func(n node) { n.remove("dev/nvidia-uvm") },
			"0 problem device-nodes: the host lacks /dev/nvidia-uvm | pve-nvidia-hook devices",
		},
		"node is a file": {
			func(n node) { n.remove("dev/nvidia0"); n.file("dev/nvidia0", "") },
			"0 problem device-nodes: /dev/nvidia0 on the host is not a device node",
		},
		"uvm major drifted": {
			func(n node) { n.remove("dev/nvidia-uvm"); n.node("nvidia-uvm", 243, 0) },
			"0 problem device-nodes: /dev/nvidia-uvm on the host has the numbers 243:0, the driver has 511:0 now | pve-nvidia-hook devices",
		},
		"uvm module missing": {
			func(n node) { n.file("proc/devices", "Character devices:\n195 nvidia\n") },
			"0 problem device-nodes: the kernel module nvidia-uvm is not loaded, so CUDA cannot work | modprobe nvidia-uvm; pve-nvidia-hook devices",
		},
		"unit not enabled": {
			func(n node) { n.remove("etc/systemd/system/multi-user.target.wants") },
			"0 warning devices-unit: nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not enabled | systemctl enable --now pve-nvidia-hook-devices",
		},
		"package not installed": {
			func(n node) { n.remove("etc/systemd/system/multi-user.target.wants", "usr/lib/systemd/system") },
			"0 warning devices-unit: nothing makes /dev/nvidia-uvm at boot: the unit pve-nvidia-hook-devices is not installed | apt-get install ./pve-nvidia-hook_*.deb",
		},
		"cluster file system not mounted": {
			func(n node) { n.remove("etc/pve/nodes") },
			"/etc/pve/nodes is not there | look at systemctl status pve-cluster\n",
		},
		"program gone": {
			func(n node) { n.remove("usr/bin/pve-nvidia-hook") },
			"0 problem hook-program: the hookscript does nothing",
		},
		"another node": {
			func(n node) { n.file("etc/pve/nodes/pve2/lxc/999.conf", "hostname: there\n") },
			"0 unknown hook-program: whether local:snippets/pve-nvidia-hook is on pve2 too is not known here; a container that migrates to a node without it does not start | ssh pve2 ls -l /var/lib/vz/snippets/pve-nvidia-hook; if it is not there, install pve-nvidia-hook there",
		},
		"another node, and a hookscript that is chained": {
			func(n node) {
				n.file("etc/pve/nodes/pve2/lxc/999.conf", "hostname: there\n")
				n.guest("local:snippets/pve-nvidia-hook", "local:snippets/pve-nvidia-hook+backup.sh")
			},
			"| ssh pve2 ls -l /var/lib/vz/snippets/pve-nvidia-hook+backup.sh; if it is not there, run there: pve-nvidia-hook devices\n",
		},
		"another node, and the script that is run after this program": {
			func(n node) {
				n.file("etc/pve/nodes/pve2/lxc/999.conf", "hostname: there\n")
				n.guest("local:snippets/pve-nvidia-hook", "local:snippets/pve-nvidia-hook+backup.sh")
			},
			"| ssh pve2 ls -l /var/lib/vz/snippets/backup.sh; if it is not there, copy it there\n",
		},
		"hookscript on a network storage": {
			func(n node) {
				n.file("etc/pve/storage.cfg", "nfs: nas\n\tserver 192.0.2.1\n")
				n.guest("local:snippets", "nas:snippets")
			},
			"0 warning hook-program: Proxmox VE does not mount storage nas for a hookscript: after a boot containers with nas:snippets/pve-nvidia-hook may not start | install pve-nvidia-hook on every node, then enable with --storage local; or add /mnt/pve/nas to /etc/fstab",
		},
		"config mistake": {
			func(n node) { n.configure("[driver]\nversoin = \"1\"\n") },
			"0 problem configuration: ",
		},
		"hookscript missing": {
			func(n node) { n.remove("var/lib/vz") },
			"101 problem hookscript: the container does not start: its hookscript /var/lib/vz/snippets/pve-nvidia-hook is missing | pve-nvidia-hook enable 101",
		},
		"hookscript not executable": {
			func(n node) { n.mode("var/lib/vz/snippets/pve-nvidia-hook", 0o644) },
			"101 problem hookscript: the container does not start: its hookscript /var/lib/vz/snippets/pve-nvidia-hook is not executable | chmod 755 /var/lib/vz/snippets/pve-nvidia-hook",
		},
		"hookscript of an older version": {
			func(n node) {
				n.file("var/lib/vz/snippets/pve-nvidia-hook", "#!/bin/sh\nprogram=/usr/bin/pve-nvidia-hook\n")
			},
			"101 warning hookscript: the hookscript /var/lib/vz/snippets/pve-nvidia-hook is not the one of this version | pve-nvidia-hook enable 101",
		},
		"hookscript is another program": {
			func(n node) { n.file("var/lib/vz/snippets/pve-nvidia-hook", "#!/bin/sh\nrm -rf /\n") },
			"is not a script of pve-nvidia-hook | move it away",
		},
		"chained hookscript gone": {
			func(n node) {
				n.guest("local:snippets/pve-nvidia-hook", "local:snippets/pve-nvidia-hook+backup.sh")
				n.file("var/lib/vz/snippets/pve-nvidia-hook+backup.sh", string(snippet.Script))
				n.mode("var/lib/vz/snippets/pve-nvidia-hook+backup.sh", 0o755)
			},
			"101 problem hookscript: the container does not start: its hookscript /var/lib/vz/snippets/backup.sh is missing | put it back, or drop it: pve-nvidia-hook disable 101 && pve-nvidia-hook enable 101\n",
		},
		"storage gone": {
			func(n node) { n.guest("local:snippets", "nfs1:snippets") },
			`101 problem hookscript: the container does not start: there is no storage "nfs1"`,
		},
		"hookscript overwritten": {
			func(n node) { n.guest("local:snippets/pve-nvidia-hook", "local:snippets/backup.sh") },
			"101 problem hookscript: the hookscript was overwritten: it is local:snippets/backup.sh instead of local:snippets/pve-nvidia-hook, so the driver no longer follows the host | pve-nvidia-hook enable 101 --chain",
		},
		"hookscript line gone": {
			func(n node) { n.guest("hookscript: local:snippets/pve-nvidia-hook\n", "") },
			"101 problem hookscript: the hookscript line is gone: enable has set local:snippets/pve-nvidia-hook | pve-nvidia-hook enable 101",
		},
		"changes wait": {
			func(n node) {
				n.guest("unprivileged: 1\n", "unprivileged: 1\n[pve:pending]\ndev3: /dev/nvidia-uvm-tools,mode=0666\n")
			},
			"101 warning hookscript: changes of its hookscript or devices take effect at the next start | pct reboot 101",
		},
		"devN of a node that is not there": {
			func(n node) {
				n.guest("unprivileged: 1\n", "dev3: /dev/nvidia7,mode=0666\n")
			},
			"101 problem entries-on-host: the container does not start: dev3 names /dev/nvidia7, which the host lacks | pve-nvidia-hook devices; or, if that device is gone for good: pct set 101 --delete dev3",
		},
		"mode for root alone, written out": {
			func(n node) { n.guest("/dev/nvidia0,mode=0666", "path=/dev/nvidia0,mode=0600,deny-write=0") },
			"| pct set 101 --dev1 path=/dev/nvidia0,deny-write=0,mode=0666",
		},
		"mode for root alone": {
			func(n node) { n.guest("/dev/nvidia0,mode=0666", "/dev/nvidia0") },
			"101 warning entry-mode: dev1 gives /dev/nvidia0 the mode 0660: only root in the container can use it | pct set 101 --dev1 /dev/nvidia0,mode=0666",
		},
		"entry twice": {
			func(n node) {
				n.guest("unprivileged: 1\n", "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,create=file\nlxc.cgroup2.devices.allow: c 195:* rwm\n")
			},
			`101 warning entries: dev1 and "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,create=file" both pass /dev/nvidia0 | remove the line from /etc/pve/lxc/101.conf`,
		},
		"an entry of enable taken out": {
			func(n node) {
				n.file("state/enabled/101.json", `{"hookscript":"local:snippets/pve-nvidia-hook","dev":{"3":"/dev/nvidia-uvm-tools,mode=0666"}}`)
			},
			"101 problem entries: no entry passes /dev/nvidia-uvm-tools into the container | pve-nvidia-hook enable 101 --gpus all",
		},
		"state folder for all": {
			func(n node) { n.mode("state", 0o777) },
			"has mode 0777: others than root can write to it, so no run is recorded | chmod 700 ",
		},
		"uvm left out": {
			func(n node) { n.guest("dev2: /dev/nvidia-uvm,mode=0666\n", "") },
			"101 problem entries: no entry passes /dev/nvidia-uvm into the container | pve-nvidia-hook enable 101 --gpus all",
		},
		"a chosen GPU left out": {
			func(n node) { n.configure("[containers.101]\ngpus = \"0,1\"\n") },
			"101 problem entries: no entry passes /dev/nvidia1 into the container | pve-nvidia-hook enable 101 --gpus 0,1",
		},
		"a GPU chosen by the number that nvidia-smi gives it": {
			func(n node) {
				n.file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Device Minor: \t 1\n")
				n.file("proc/driver/nvidia/gpus/0000:02:00.0/information", "Device Minor: \t 0\n")
				n.node("nvidia1", 195, 1)
				n.configure("[containers.101]\ngpus = \"0\"\n")
			},
			"101 problem entries: no entry passes /dev/nvidia1 into the container | pve-nvidia-hook enable 101 --gpus 0",
		},
		"no entries": {
			func(n node) {
				n.remove("state/enabled")
				n.file("etc/pve/nodes/pve1/lxc/101.conf", "hookscript: local:snippets/pve-nvidia-hook\n")
			},
			"101 problem entries: no entry gives the container a GPU's device nodes | pve-nvidia-hook enable 101 --gpus all",
		},
		"mount of a missing node": {
			func(n node) { n.mounts("c 195:* rwm", "c 511:* rwm"); n.remove("dev/nvidia-uvm") },
			`101 problem entries-on-host: the host lacks /dev/nvidia-uvm: the line "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file" then makes an empty file`,
		},
		"rule for the number of an earlier boot": {
			func(n node) { n.mounts("c 195:* rwm", "c 243:* rwm") },
			"101 problem device-rules: no lxc.cgroup2.devices.allow line lets the container open /dev/nvidia-uvm, which has the numbers 511:0 now",
		},
		"no rule for uvm": {
			func(n node) { n.mounts("c 195:* rwm") },
			"101 problem device-rules: no lxc.cgroup2.devices.allow line lets the container open /dev/nvidia-uvm, which has the numbers 511:0 now",
		},
		"rules of version 1": {
			func(n node) { n.mounts("c 511:* rwm"); n.append("lxc.cgroup.devices.allow: c 195:* rwm\n") },
			`101 problem device-rules: LXC ignores the line "lxc.cgroup.devices.allow: c 195:* rwm": it is for control groups of version 1, and this host has version 2 alone | sed -i 's/^lxc.cgroup.devices.allow/lxc.cgroup2.devices.allow/' /etc/pve/lxc/101.conf`,
		},
		"rules of version 1 too": {
			func(n node) { n.append("lxc.cgroup.devices.allow: c 195:* rwm\n") },
			`101 warning device-rules: LXC ignores the line "lxc.cgroup.devices.allow: c 195:* rwm"`,
		},
		"failed and held back": {
			func(n node) {
				n.file("state/failures/101.json", `{"count":3,"at":"2026-01-01T00:00:00Z","next":"2999-01-01T00:00:00Z","seconds":60,"reason":"the disk is full"}`)
			},
			"101 problem last-run: it failed 3 times in a row, and the next attempt is at 2999-01-01",
		},
		"last run refused": {
			func(n node) {
				n.file("state/runs/101/20260102T000000.000000Z.json", `{"at":"2026-01-02T00:00:00Z","result":"refused","reason":"distribution packages","hint":"apt-get purge libcuda1"}`)
			},
			"| apt-get purge libcuda1; then: pve-nvidia-hook apply 101",
		},
		"trace is no JSON": {
			func(n node) { n.file("state/runs/101/20260101T000000.000000Z.json", "{") },
			"101 unknown last-run: the last run cannot be read",
		},
		"nodes for graphics missing": {
			func(n node) { n.file("sys/module/nvidia_modeset/refcnt", "0\n") },
			"0 warning device-nodes: the host lacks /dev/nvidia-modeset: without them graphics or parts of a GPU (MIG) do not work in containers | pve-nvidia-hook devices",
		},
		"cache writable for all": {
			func(n node) { n.file("cache/x", ""); n.mode("cache", 0o777) },
			"cache has mode 0777: others than root could replace what root runs | chmod go-w ",
		},
		"cache of somebody else": {
			func(n node) { n.file("cache/x", ""); require.NoError(n, os.Chown(n.path("cache"), 1000, 1000)) },
			"belongs to uid 1000, who could replace what root runs | chown root:root ",
		},
		"cache behind a link of somebody else": {
			func(n node) {
				n.file("real/x", "")
				n.link("cache", n.path("real"))
				require.NoError(n, os.Lchown(n.path("cache"), 1000, 1000))
			},
			"cache belongs to uid 1000, who could replace what root runs | chown root:root ",
		},
		"run file put there by hand": {
			func(n node) { n.file("cache/NVIDIA-Linux-x86_64-580.142.run", "x") },
			"0 unknown cache-files: NVIDIA-Linux-x86_64-580.142.run was put there by hand, or has changed: it is verified before it is used | pve-nvidia-hook cache verify 580.142",
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.spoil(n)
			require.Contains(t, lines(n.examine().Findings), c.want)
		})
	}
}

func TestHookscriptWhereNoProgramRunsIsNamed(t *testing.T) {
	n := newNode(t)
	dir := n.path("var/lib/vz")
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skip("mounting needs more rights: ", err)
	}
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	require.Contains(t, lines(n.examine().Findings), "101 problem hookscript: the container does not start: the file system of its hookscript /var/lib/vz/snippets/pve-nvidia-hook is mounted noexec | mount it without noexec")
}

func TestRulesThatFitAreLetBe(t *testing.T) {
	n := newNode(t)
	n.mounts("c 195:* rwm", "c 511:* rwm")
	require.Empty(t, lines(n.examine().Findings))
	n.mounts("a")
	require.Empty(t, lines(n.examine().Findings))
	// 243 is for another device of the container: the GPU's are all allowed.
	n.mounts("c 195:* rwm", "c 511:* rwm", "c 243:* rwm")
	require.Empty(t, lines(n.examine().Findings))
}

func TestRulesOfVersion1CountWhereItIsInUse(t *testing.T) {
	n := newNode(t)
	n.remove("sys/fs/cgroup/cgroup.controllers")
	n.mounts("c 511:* rwm")
	n.append("lxc.cgroup.devices.allow: c 195:* rwm\n")
	require.Empty(t, lines(n.examine().Findings))
}

func TestNodesOfAGroupAreLetBe(t *testing.T) {
	n := newNode(t)
	n.guest("/dev/nvidia0,mode=0666", "/dev/nvidia0,gid=44")
	require.Empty(t, lines(n.examine().Findings))
}

func TestMountedFolderBringsItsNodes(t *testing.T) {
	n := newNode(t)
	n.guest("unprivileged: 1\n", "lxc.mount.entry: /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir\n")
	n.file("dev/nvidia-caps/readme", "")
	n.file("state/enabled/101.json", `{"hookscript":"local:snippets/pve-nvidia-hook","dev":{"3":"/dev/nvidia-caps/nvidia-cap1"}}`)
	require.Empty(t, lines(n.examine().Findings))
}

func TestNoGPUChosenIsNoFault(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/101.conf", "hookscript: local:snippets/pve-nvidia-hook\n")
	n.file("state/enabled/101.json", `{"hookscript":"local:snippets/pve-nvidia-hook","none":true}`)
	require.Empty(t, lines(n.examine().Findings))
}

func TestContainersAreChosen(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/nodes/pve1/lxc/102.conf", "hostname: other\n")
	n.file("etc/pve/nodes/pve1/lxc/103.conf", "hostname: configured\n")
	n.file("etc/pve/nodes/pve2/lxc/104.conf", "hookscript: local:snippets/pve-nvidia-hook\n")
	n.file("etc/pve/nodes/pve1/qemu-server/105.conf", "hookscript: local:snippets/pve-nvidia-hook\n")
	n.configure("[containers.103]\nenabled = true\n[containers.104]\nenabled = true\n[containers.106]\nenabled = true\n")
	r := n.examine()
	require.Equal(t, map[int]string{0: "pve1", 101: "web", 103: "configured", 106: ""}, r.Names)
	require.Contains(t, lines(r.Findings), "106 warning container: the configuration names container 106, but there is no such container")

	said := lines(n.examine(104, 105, 107).Findings)
	require.Contains(t, said, "104 unknown container: container 104 is on node pve2 and cannot be checked from here | ssh pve2 pve-nvidia-hook doctor 104")
	require.Contains(t, said, "105 problem container: 105 is a virtual machine")
	require.Contains(t, said, "107 problem container: there is no container 107")
}

func TestUnknownIsNeverAFact(t *testing.T) {
	n := node{t, t.TempDir()}
	n.configure("")
	n.file("lxc/101/config", "lxc.rootfs.path = dir:/nowhere\n")
	r := n.examine()
	require.False(t, r.Problems(), lines(r.Findings))
	said := lines(r.Findings)
	for _, check := range []string{"kernel-module", "nouveau", "devices-unit", "proxmox"} {
		require.Contains(t, said, "0 unknown "+check)
	}
	require.NotContains(t, said, "101 problem")
	for _, f := range r.Findings {
		if f.VMID == 101 && f.Check == "inside" {
			require.Equal(t, Unknown, f.Level)
			return
		}
	}
	t.Fatal("nothing is said of what is in the container")
}

func TestWithoutProxmoxLXCSaysWhichContainersThereAre(t *testing.T) {
	n := node{t, labtest.ShortDir(t)}
	n.configure("")
	n.file("lxc/101/config", "lxc.rootfs.path = dir:/nowhere\n")
	n.file("lxc/readme/config", "")
	names := n.examine().Names
	require.Contains(t, names, 101)
	require.Len(t, names, 2, "the host and that container")

	n.file("state/runs/102/20260101T000000.000000Z.json", `{"at":"2026-01-01T00:00:00Z","result":"failed"}`)
	said := lines(n.examine(102).Findings)
	require.Contains(t, said, "102 problem container: there is no container 102 below "+n.path("lxc")+" | pct list")
	require.NotContains(t, said, "apply")
}

func TestMistakesOfTheConfigurationAreEachNamed(t *testing.T) {
	n := newNode(t)
	n.configure("[driver]\nversion = \"new\"\non_mismatch = \"shrug\"\n")
	said := lines(n.examine().Findings)
	require.Contains(t, said, "config.toml:2: driver.version")
	require.Contains(t, said, "config.toml:3: driver.on_mismatch")
	require.Contains(t, said, "0 unknown configuration: ")
}

func TestTextOfOthersCannotChangeATerminal(t *testing.T) {
	n := newNode(t)
	n.file("state/failures/101.json", `{"count":1,"at":"2026-01-01T00:00:00Z","next":"2999-01-01T00:00:00Z","reason":"a\u001b[2J\nok  all is well"}`)
	n.file("etc/pve/nodes/pve1/lxc/101.conf", strings.Replace(goodConf, "hostname: web", "hostname: w\x1b[1mb", 1))
	r := n.examine()
	require.Contains(t, lines(r.Findings), `a\x1b[2J ok  all is well`)
	var b strings.Builder
	require.NoError(t, r.Print(&b, true, false, 0))
	require.NotContains(t, b.String(), "\x1b")
}

func TestWhatTheCacheKnowsOfItsFilesIsSaid(t *testing.T) {
	n := newNode(t)
	n.file("cache/x", "")
	file, err := fakerun.Write(n.path("cache"), fakerun.Spec{Version: module, Arch: arch(t), NoDecompressor: true})
	require.NoError(t, err)
	name := filepath.Base(file)
	require.Contains(t, lines(n.look(Options{}).Findings), "0 unknown cache-files: "+name)
	verify := func() error {
		_, err := (&cache.Cache{Dir: n.path("cache")}).Verify(t.Context(), module, arch(t))
		return err
	}
	require.NoError(t, verify())
	require.Empty(t, lines(n.look(Options{}).Findings), "it is verified now")

	// One byte, with size and times as they were: only reading tells.
	info, err := os.Stat(file)
	require.NoError(t, err)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("!"), info.Size()-1)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(file, info.ModTime(), info.ModTime()))
	require.Error(t, verify())
	require.Contains(t, lines(n.look(Options{}).Findings), "0 problem cache-files: "+name+" is refused: ")
	require.Contains(t, lines(n.look(Options{}).Findings), "sha256 is ")
	require.Contains(t, lines(n.look(Options{}).Findings), " | the next start fetches it again; or ")
	require.NotContains(t, lines(n.look(Options{}).Findings), "cache verify")

	// One that was never good is no other matter.
	require.NoError(t, os.Remove(file+".refused"))
	require.NoError(t, os.WriteFile(file, []byte("<html>"), 0o644))
	require.Error(t, verify())
	require.Contains(t, lines(n.look(Options{}).Findings), "0 problem cache-files: "+name+" is refused: ")
}

func TestRunThatGoesOnIsNamed(t *testing.T) {
	n := newNode(t)
	n.file("run/101.lock", "")
	held, err := lock.Take(context.Background(), n.path("run/101.lock"), lock.Options{Holder: "container 101"})
	require.NoError(t, err)
	defer held.Release()
	require.Contains(t, lines(n.examine().Findings), fmt.Sprintf("101 warning lock: a run is active on this container, so this report may change: pid %d on ", os.Getpid()))
	require.NoError(t, held.Release())
	require.Empty(t, lines(n.examine().Findings))
}
