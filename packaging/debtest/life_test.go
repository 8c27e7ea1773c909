package debtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	driver  = "550.163.01"
	snippet = "/var/lib/vz/snippets/pve-nvidia-hook"
	config  = "/etc/pve-nvidia-hook/config.toml"
	named   = "arch: amd64\nhookscript: local:snippets/pve-nvidia-hook\nhostname: one\nrootfs: local:101/vm-101-disk-0.raw,size=8G\n"
)

// The life of the package on one node, from the first installation to the
// purge. The steps build on one another, so a failed one ends the test.
func TestPackageOnDebian(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, suite)
			clean := n.files()
			for _, step := range []struct {
				promise string
				do      func(*node)
			}{
				{"FreshInstallIsComplete", freshInstall},
				{"UnitsAreSoundAndOrderedBeforeGuests", units},
				{"DevicesComeBeforeGuestsAtBoot", bootOrder},
				{"InstallingTwiceChangesNothing", installTwice},
				{"GuestStartsWithTheHook", guestStarts},
				{"ConfinedServiceInstallsInAGuest", confined},
				{"LongWorkGoesOnInAUnit", background},
				{"OthersDoNotWaitForTheDriver", queued},
				{"UnitEndsWithItsContainer", unitEnds},
				{"ToolkitIsLeftToTheUnit", toolkitInUnit},
				{"UpgradeKeepsWhatTheAdministratorChanged", upgrade},
				{"RemovalKeepsTheSnippetThatGuestsName", removeWhileNamed},
				{"PurgeKeepsTheSnippetThatGuestsName", purgeWhileNamed},
				{"SnippetStaysWhenTheClusterCannotBeRead", clusterUnreadable},
				{"SharedCacheThatIsMountedStays", mountedCache},
				{"SnippetGoesWhenNobodyNamesIt", removeUnnamed},
			} {
				if !t.Run(step.promise, func(t *testing.T) { do := *n; do.t = t; step.do(&do) }) {
					t.FailNow()
				}
			}
			n.run("dpkg --purge pve-nvidia-hook 2>&1")
			n.run("rmdir /var/lib/vz/snippets /var/lib/vz")
			require.Equal(t, clean, n.files(), "what a purge leaves")
		})
	}
}

func freshInstall(n *node) {
	n.install(deb(older)) // not a Proxmox VE node: nothing but Debian and LXC
	require.Equal(n.t, "755 root root\n", n.run("stat -c '%a %U %G' "+snippet))
	n.run("cmp /usr/share/pve-nvidia-hook/snippet " + snippet)
	require.Equal(n.t, "700 755\n", n.run("echo $(stat -c %a /var/lib/pve-nvidia-hook /var/cache/pve-nvidia-hook)"))
	require.Contains(n.t, n.run("pve-nvidia-hook version"), older)
	require.Equal(n.t, snippet[strings.LastIndex(snippet, "/")+1:]+"\n", n.run("ls -A /var/lib/vz/snippets"), "no temporary file")
	n.run("dpkg --verify pve-nvidia-hook && dpkg --remove pve-nvidia-hook 2>&1")
	require.False(n.t, n.exists(snippet), "no guests, no snippet")
	require.True(n.t, n.exists(config), "a conffile stays until the purge")
	n.joinCluster()
	n.install(deb(older))
}

func units(n *node) {
	require.Empty(n.t, n.run("systemd-analyze verify --man=no /usr/lib/systemd/system/pve-nvidia-hook-* 2>&1"))
	// Without a GPU there is nothing to do, which is no failure.
	require.Equal(n.t, "active\n", n.run("systemctl is-active pve-nvidia-hook-devices.service"))
	require.Equal(n.t, "enabled\n", n.run("systemctl is-enabled pve-nvidia-hook-devices.service"))
	before := n.run("systemctl show -P Before pve-nvidia-hook-devices.service")
	require.Contains(n.t, before, "pve-guests.service")
	require.Contains(n.t, before, "pve-ha-lrm.service")
	out, err := n.try("systemctl is-enabled pve-nvidia-hook-apply.timer")
	require.Error(n.t, err)
	require.Equal(n.t, "disabled\n", out)
	require.Equal(n.t, "0\n", n.run("systemctl list-units --failed --no-legend 'pve-nvidia-hook*' | wc -l"))
}

// bootOrder boots the node with a unit that stands in for Proxmox VE's.
func bootOrder(n *node) {
	n.give("/etc/systemd/system/pve-guests.service", []byte(
		"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"), 0o644)
	n.run("systemctl enable pve-guests.service 2>&1")
	require.NoError(n.t, n.Stop())
	n.boot()
	times := n.run("systemctl show -P ExecMainExitTimestampMonotonic pve-nvidia-hook-devices.service" +
		" && systemctl show -P ExecMainStartTimestampMonotonic pve-guests.service")
	var devices, guests int64
	_, err := fmt.Sscan(times, &devices, &guests)
	require.NoError(n.t, err)
	require.Positive(n.t, devices, "it ran at boot")
	require.Less(n.t, devices, guests)
	n.run("systemctl disable pve-guests.service 2>&1 && rm /etc/systemd/system/pve-guests.service && systemctl daemon-reload")
}

func installTwice(n *node) {
	before := n.files()
	n.install(deb(older))
	require.Equal(n.t, before, n.files())
}

func guestStarts(n *node) {
	n.guest("101", named)
	n.starts("101")
	// A mistake in the configuration is seen as any other failed start.
	n.run("cp -p " + config + " /root/kept && echo '[driver' >>" + config)
	said := n.starts("101")
	require.Contains(n.t, said, "TOML syntax")
	require.NotContains(n.t, said, "background", "a failed start is no work that a stop ends")
	require.Contains(n.t, n.run("systemctl list-units --no-legend --state=failed"), "NVIDIA driver of container 101: "+config)
	n.run("mv /root/kept " + config)
	n.starts("101")
	// What must never happen: this shows that the stand-in would notice.
	n.run("mv " + snippet + " " + snippet + ".away")
	out, err := n.try("pct start 101 2>&1")
	require.Error(n.t, err, out)
	require.Contains(n.t, out, "does not exist")
	n.run("mv " + snippet + ".away " + snippet)
}

// passesGPU has a guest's configuration pass a GPU: nvidia-smi is not asked in one
// that has none.
func (n *node) passesGPU(vmid string) {
	n.t.Helper()
	n.run("echo 'lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file' >>/etc/pve/nodes/pve1/lxc/" + vmid + ".conf")
}

// shares has a guest's configuration mount the shared driver, as enable --share does,
// and that of LXC, as Proxmox VE does at a start.
func (n *node) shares(vmid string) {
	n.t.Helper()
	const entry = "/run/pve-nvidia-hook/driver usr/lib/pve-nvidia-hook/driver none bind,ro,create=dir,optional 0 0"
	n.run("echo 'lxc.mount.entry: " + entry + "' >>/etc/pve/nodes/pve1/lxc/" + vmid + ".conf; echo 'lxc.mount.entry = " + entry + "' >>/var/lib/lxc/" + vmid + "/config")
}

// confined installs a driver in a guest by the timer's service: the mount into
// the guest, setuid files and the cache must work in its confinement, and the
// node's own programs must be out of reach.
func confined(n *node) {
	n.passesGPU("101")
	n.run("pct start 101")
	done := n.withDriver("[install]\ndeliver = \"mount\"\n")
	defer done()
	n.give("/etc/systemd/system/pve-nvidia-hook-apply.service.d/test.conf", []byte(strings.Join([]string{"[Service]",
		"Environment=" + hostEnv,
		"ExecStart=/bin/sh -c '! touch /usr/bin/of-the-node'",
		"ExecStart=/bin/sh -c 'lxc-attach -n 101 -- chmod 4755 /usr/bin/nvidia-smi'", ""}, "\n")), 0o644)
	out, err := n.try("systemctl daemon-reload && systemctl start pve-nvidia-hook-apply.service; rc=$?;" +
		" journalctl -u pve-nvidia-hook-apply.service --no-pager; exit $rc")
	require.NoError(n.t, err, out)
	require.Contains(n.t, out, "delivered by mount")
	require.Contains(n.t, n.run("lxc-attach -n 101 -- nvidia-smi"), driver)
	n.run("pct stop 101 && rm -r /etc/systemd/system/pve-nvidia-hook-apply.service.d && systemctl daemon-reload")
}

func upgrade(n *node) {
	n.run("echo '# mine' >>" + config + " && chmod 0711 /var/lib/pve-nvidia-hook")
	n.run("echo changed >" + snippet)
	n.run("systemctl disable --now pve-nvidia-hook-devices.service && systemctl enable --now pve-nvidia-hook-apply.timer 2>&1")
	n.install(deb(newer))
	require.Contains(n.t, n.run("pve-nvidia-hook version"), newer)
	require.Equal(n.t, "# mine\n", n.run("tail -n 1 "+config))
	require.Equal(n.t, "711\n", n.run("stat -c %a /var/lib/pve-nvidia-hook"))
	n.run("cmp /usr/share/pve-nvidia-hook/snippet " + snippet + " && test -x " + snippet)
	out, _ := n.try("systemctl is-enabled pve-nvidia-hook-devices.service")
	require.Equal(n.t, "disabled\n", out)
	require.Equal(n.t, "enabled\n", n.run("systemctl is-enabled pve-nvidia-hook-apply.timer"))
	require.Equal(n.t, "active\n", n.run("systemctl is-active pve-nvidia-hook-apply.timer"))
	n.starts("101")
}

func removeWhileNamed(n *node) {
	n.guest("102", "arch: amd64\n#hookscript: local:snippets/pve-nvidia-hook\nhookscript: local:snippets/other\ndev0: /dev/nvidia0,mode=0666\ndev1: path=/dev/nvidiactl\ndev2: /dev/dri/card0\ndev3: /dev/nvidia-uvm\n\n[pve:pending]\ndelete: dev3\n")
	n.shares("101")
	for name, conf := range map[string]string{
		"pve2/lxc/201.conf":         "arch: amd64\n\n[before-upgrade]\nhookscript: local:snippets/pve-nvidia-hook\nsnaptime: 1700000000\n",
		"pve2/lxc/202.conf":         "arch: amd64\n\n[pve:pending]\nhookscript: local:snippets/pve-nvidia-hook\n",
		"pve2/lxc/203.conf":         "arch: amd64\nhookscript: local:snippets/pve-nvidia-hook-of-mine\ndev0: /dev/nvidia0,mode=0666\n",
		"pve2/lxc/206.conf":         "arch: amd64\nhookscript: nas:snippets/pve-nvidia-hook+my own\x1b[31m.sh\n",
		"pve2/qemu-server/204.conf": "cores: 2\nhookscript:local:snippets/pve-nvidia-hook\n",
		"pve2/qemu-server/205.conf": "cores: 2\n\n[PENDING]\nhookscript: local:snippets/pve-nvidia-hook\n\n[special:cloudinit]\nhookscript: local:snippets/pve-nvidia-hook\n",
	} {
		n.give("/etc/pve/nodes/"+name, []byte(conf), 0o640)
	}
	n.run("touch /var/lib/pve-nvidia-hook/kept /var/cache/pve-nvidia-hook/kept")
	require.Contains(n.t, n.run("systemctl list-units --no-legend --state=failed"), "NVIDIA driver of container 101: no NVIDIA kernel module is loaded on this host", "an earlier start")
	n.run("systemctl reset-failed pve-nvidia-hook-101; systemd-run --unit pve-nvidia-hook-101 sleep 600 2>&1")
	said := n.run("dpkg --remove pve-nvidia-hook 2>&1")
	require.Contains(n.t, said, snippet+" stays")
	var guests []string
	for line := range strings.Lines(said) {
		if guest, ok := strings.CutPrefix(line, "  guest "); ok {
			guests = append(guests, strings.TrimSpace(guest))
		}
	}
	require.Equal(n.t, []string{
		"101 on pve1: pct set 101 --delete hookscript",
		"201 on pve2: pct delsnapshot 201 before-upgrade",
		"202 on pve2: pct set 202 --revert hookscript",
		"206 on pve2: pct set 206 --hookscript 'nas:snippets/my own[31m.sh'",
		"204 on pve2: qm set 204 --delete hookscript",
		"205 on pve2: qm set 205 --revert hookscript",
		"102 on pve1: pct set 102 --delete dev0,dev1",
		"101",
	}, guests)
	require.Contains(n.t, said, "these containers of this node have no driver from the next boot on")
	require.False(n.t, n.exists("/usr/bin/pve-nvidia-hook"))
	require.Empty(n.t, n.run(snippet+" 101 pre-start"), "it does nothing, quietly")
	n.starts("101")
	n.run("test -e /var/lib/pve-nvidia-hook/kept && test -e /var/cache/pve-nvidia-hook/kept")
	require.Equal(n.t, "0\n", n.run("systemctl list-units --no-legend 'pve-nvidia-hook*' | wc -l"), "nothing of it runs")
}

func purgeWhileNamed(n *node) {
	n.run("touch -d '2 minutes ago' /run/pve-nvidia-hook/removed")
	said := n.run("dpkg --purge pve-nvidia-hook 2>&1")
	require.Contains(n.t, said, "guest 101 on pve1")
	for _, purge := range []string{"dpkg --purge", "apt-get purge -y"} {
		n.install(deb(newer))
		require.Equal(n.t, 1, strings.Count(n.run(purge+" pve-nvidia-hook 2>&1"), "guest 101 on pve1"), purge)
	}
	for _, gone := range []string{"/var/lib/pve-nvidia-hook", "/var/cache/pve-nvidia-hook", "/etc/pve-nvidia-hook"} {
		require.False(n.t, n.exists(gone), gone)
	}
	n.starts("101")
}

func clusterUnreadable(n *node) {
	n.install(deb(newer))
	n.run("rm /etc/pve/nodes/*/*/*.conf")
	n.run("mv /etc/pve /etc/pve.away && mkdir /etc/pve") // pmxcfs does not run
	said := n.run("dpkg --remove pve-nvidia-hook 2>&1")
	require.Contains(n.t, said, "cannot be read")
	require.True(n.t, n.exists(snippet))
	n.run("rmdir /etc/pve && mv /etc/pve.away /etc/pve")
}

func mountedCache(n *node) {
	n.install(deb(newer))
	n.run("mount -t tmpfs shared /var/cache/pve-nvidia-hook && touch /var/cache/pve-nvidia-hook/of-all-nodes")
	said := n.run("dpkg --purge pve-nvidia-hook 2>&1")
	require.Contains(n.t, said, "/var/cache/pve-nvidia-hook is a mount")
	n.run("test -e /var/cache/pve-nvidia-hook/of-all-nodes && umount /var/cache/pve-nvidia-hook && rmdir /var/cache/pve-nvidia-hook")
}

func removeUnnamed(n *node) {
	n.install(deb(newer))
	require.True(n.t, n.exists(snippet))
	said := n.run("dpkg --remove pve-nvidia-hook 2>&1")
	require.False(n.t, n.exists(snippet))
	require.NotContains(n.t, said, "guest")
}
