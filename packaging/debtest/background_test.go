package debtest

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// hostEnv are the variables that let the program see a driver on a node that has none.
const hostEnv = "PVE_NVIDIA_HOOK_HOST_ROOT=/root/host PVE_NVIDIA_HOOK_CONFIG=/root/config.toml"

// pct is the stand-in for pct, which hands those variables to the hook.
const pct = "FAKEPCT_ROOT=/ " + hostEnv + " pct "

// withDriver gives the node a loaded driver, a configuration and the driver's
// run file in its cache, until done is called.
func (n *node) withDriver(config string) (done func()) {
	n.t.Helper()
	n.run("mount -t tmpfs -o mode=0755 cache /var/cache/pve-nvidia-hook")
	n.give("/root/host/proc/driver/nvidia/version", []byte("NVRM version: NVIDIA UNIX x86_64 Kernel Module  "+driver+"  Tue Apr  8 12:41:17 UTC 2025\n"), 0o644)
	n.run("mkdir /root/host/etc /root/host/dev && cp -a /etc/pve /root/host/etc/ && touch /root/host/dev/nvidia0 /root/host/dev/nvidiactl")
	n.give("/root/config.toml", []byte(config), 0o644)
	run := sample(n.t)
	n.give("/root/"+filepath.Base(run), read(n.t, run), 0o644)
	n.run("mv /root/*.run /var/cache/pve-nvidia-hook/")
	return func() { n.run("umount /var/cache/pve-nvidia-hook && rm -r /root/host /root/config.toml") }
}

// eventually waits until a script on the node ends well.
func (n *node) eventually(script string) {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		_, err := n.try(script)
		return err == nil
	}, time.Minute, 100*time.Millisecond, script)
}

const (
	isAtWork  = "systemctl is-active --quiet pve-nvidia-hook-104"
	isIdle    = "! systemctl is-active --quiet pve-nvidia-hook-104 && ! test -e /run/systemd/transient/pve-nvidia-hook-104.service"
	rootfs104 = "/var/lib/lxc/104/rootfs"
	installs  = "test -d " + rootfs104 + "/var/lib/pve-nvidia-hook/stage"
)

func background(n *node) {
	n.guest("104", strings.ReplaceAll(named, "101", "104"))
	n.passesGPU("104")
	done := n.withDriver("[install]\nbackground = \"always\"\n")
	defer done()
	n.run("echo hang >" + rootfs104 + "/etc/sample-nvidia-installer")

	began := time.Now()
	const odd = "PVE_NVIDIA_HOOK_ODD=a\"b$c`d\\e f#g%h"
	said := n.run("export '" + odd + "'; " + pct + "start 104 2>&1") // it reads the hook's pipes to their end
	require.Less(n.t, time.Since(began), 10*time.Second)
	require.Contains(n.t, said, "so the work goes on in the background; see journalctl -fu pve-nvidia-hook-104")
	n.eventually(installs)
	require.Contains(n.t, n.run("systemctl list-units --no-legend 'pve-nvidia-hook-*'"), "NVIDIA driver of container 104")
	require.Contains(n.t, n.run("journalctl --no-pager -u pve-nvidia-hook-104"), "driver "+driver+" is not installed yet")
	require.NotContains(n.t, n.run("systemctl show pve-nvidia-hook-104"), "/root/config.toml", "everyone may read a unit's properties")
	n.run("! test -e /run/pve-nvidia-hook/104.env")

	require.Contains(n.t, n.run("tr '\\0' '\\n' </proc/$(systemctl show -P MainPID pve-nvidia-hook-104)/environ"), odd+"\n")
	main := n.run("systemctl show -P MainPID pve-nvidia-hook-104")
	began = time.Now()
	said = n.run(hostEnv + " " + snippet + " 104 post-start 2>&1")
	require.Less(n.t, time.Since(began), 10*time.Second)
	require.Contains(n.t, said, "an earlier start has begun with it")
	require.Equal(n.t, main, n.run("systemctl show -P MainPID pve-nvidia-hook-104"), "the unit that was at work")

	began = time.Now()
	said = n.run(pct + "stop 104 2>&1")
	require.Less(n.t, time.Since(began), 10*time.Second)
	require.Contains(n.t, said, "the work in the background was ended")
	n.run(isIdle + " && ! " + installs) // what it had begun is undone before the container stops

	n.run("rm " + rootfs104 + "/etc/sample-nvidia-installer")
	n.run(pct + "start 104 2>&1")
	n.eventually(isIdle)
	require.Contains(n.t, n.run("journalctl --no-pager -u pve-nvidia-hook-104"), "driver "+driver+" is installed and nvidia-smi works")
	require.Contains(n.t, n.run("lxc-attach -n 104 -- nvidia-smi"), driver)
	n.run(pct + "stop 104")
	units := "journalctl -q -u pve-nvidia-hook-104 -o cat | wc -l"
	before := n.run(units)
	require.Contains(n.t, n.run(pct+"start 104 2>&1"), "driver "+driver+" is in place")
	require.Equal(n.t, before, n.run(units), "a skip starts no unit")
	// Lines of the hook that Proxmox called, and of the unit.
	for result, line := range map[string]string{"background": "see journalctl -fu pve-nvidia-hook-104",
		"installed": "driver " + driver + " is installed and nvidia-smi works", "skipped": "driver " + driver + " is in place"} {
		require.Contains(n.t, n.run("journalctl --sync; journalctl -q --no-pager -o cat -t pve-nvidia-hook VMID=104 RESULT="+result), line)
	}
	n.run(pct + "stop 104")
}

// queued starts the guest as a booting node does, and as the HA manager does:
// others wait for the hook then, so even the driver is left to the unit.
func queued(n *node) {
	done := n.withDriver("")
	defer done()
	forget := "rm " + rootfs104 + "/var/lib/pve-nvidia-hook/installed.json"
	const follow = "must not wait for it, so the work goes on in the background; see journalctl -fu pve-nvidia-hook-104"

	n.run(forget)
	n.give("/etc/systemd/system/pve-guests.service", []byte("[Service]\nType=oneshot\nRemainAfterExit=yes\n"+
		"ExecStart=/bin/sh -c '"+pct+"start 104 >/root/startall 2>&1'\n"), 0o644)
	n.run("systemctl daemon-reload && systemctl restart pve-guests")
	require.Contains(n.t, n.run("cat /root/startall"), "the node's other guests "+follow)
	n.eventually(isIdle)
	require.Contains(n.t, n.run("lxc-attach -n 104 -- nvidia-smi"), driver)

	n.run(pct + "stop 104; " + forget + "; mkdir -p /root/host/etc/pve/ha && echo 'ct: 104' >/root/host/etc/pve/ha/resources.cfg")
	require.Contains(n.t, n.run(pct+"start 104 2>&1"), "the HA manager's other services "+follow)
	n.eventually(isIdle)

	n.run(pct + "stop 104; " + forget + "; rm /root/host/etc/pve/ha/resources.cfg")
	require.Contains(n.t, n.run(pct+"start 104 2>&1"), "nvidia-smi says "+driver, "the guests are all started: somebody waits for this one")
	n.run(pct + "stop 104; systemctl stop pve-guests && rm /etc/systemd/system/pve-guests.service && systemctl daemon-reload")
}

// unitEnds stops and starts the container in a way that runs no hook.
func unitEnds(n *node) {
	done := n.withDriver("[install]\nbackground = \"always\"\n")
	defer done()
	n.run("rm " + rootfs104 + "/var/lib/pve-nvidia-hook/installed.json " + rootfs104 + "/usr/lib/x86_64-linux-gnu/libcuda.so.1; echo hang >" + rootfs104 + "/etc/sample-nvidia-installer")
	n.run(pct + "start 104 2>&1")
	n.eventually(installs)
	n.run("rm " + rootfs104 + "/etc/sample-nvidia-installer")
	n.run("lxc-stop -k -n 104 && lxc-start -n 104 && lxc-wait -n 104 -s RUNNING -t 20")
	n.eventually(isIdle)
	require.Contains(n.t, n.run("journalctl --no-pager -u pve-nvidia-hook-104"), "the container was started again")
	require.Contains(n.t, n.run("journalctl --no-pager OBJECT_SYSTEMD_UNIT=pve-nvidia-hook-104.service"), "the container was started again")
	require.Contains(n.t, n.run("lxc-attach -n 104 -- nvidia-smi"), driver)

	n.run("rm " + rootfs104 + "/var/lib/pve-nvidia-hook/installed.json " + rootfs104 + "/usr/lib/x86_64-linux-gnu/libcuda.so.1; echo hang >" + rootfs104 + "/etc/sample-nvidia-installer")
	n.run(pct + "stop 104 2>&1; " + pct + "start 104 2>&1")
	n.eventually(installs)
	n.run("lxc-stop -k -n 104")
	n.eventually(isIdle)
	require.Contains(n.t, n.run("journalctl --no-pager -u pve-nvidia-hook-104"), "the container stopped meanwhile")
	n.run("rm " + rootfs104 + "/etc/sample-nvidia-installer")
}

// toolkitInUnit has a guest without network, which the unit waits for: enough
// to see who does what.
func toolkitInUnit(n *node) {
	done := n.withDriver("[cuda]\ntoolkit = \"12.4\"\nrepo_url = \"http://127.0.0.1:9/\"\n")
	defer done()
	n.run("rm -f " + rootfs104 + "/var/lib/pve-nvidia-hook/installed.json")
	said := n.run(pct + "start 104 2>&1")
	require.Contains(n.t, said, "nvidia-smi says "+driver)
	require.Contains(n.t, said, "the CUDA toolkit follows in the background; see journalctl -fu pve-nvidia-hook-104")
	n.run(isAtWork)
	n.eventually("journalctl -q --no-pager -u pve-nvidia-hook-104 | grep -i toolkit")
	began := time.Now()
	n.run(pct + "stop 104")
	require.Less(n.t, time.Since(began), 10*time.Second)
	n.eventually(isIdle)
	n.run("umount " + rootfs104 + " && umount /var/lib/lxc/104/layers && rm -r /var/lib/lxc/104 /etc/pve/nodes/pve1/lxc/104.conf")
}
