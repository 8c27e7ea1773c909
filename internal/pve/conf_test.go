package pve

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// full has every kind of line that a configuration can have.
const full = `#a <b>description</b> with [brackets] and hookscript: x
arch: amd64
cores: 2
dev0: /dev/nvidia0,mode=0666
dev11: path=/dev/dri/renderD128,gid=104
features: nesting=1
hookscript: local:snippets/mine.sh
hostname: web
mp0: local-lvm:vm-101-disk-1,mp=/data,size=8G
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth
ostype: debian
rootfs: local-lvm:vm-101-disk-0,size=8G
unprivileged: 1
lxc.idmap: u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.mount.entry = /dev/nvidia1 dev/nvidia1 none bind,optional,create=file
this is no line of a configuration

[pve:pending]
delete: dev0,!mp0
dev2: /dev/nvidiactl,mode=0666
memory: 2048

[before-upgrade]
#snapshot comment
dev0: /dev/fuse
hookscript: local:snippets/pve-nvidia-hook
snaptime: 1700000000
`

func parse(t *testing.T, text string) Conf {
	t.Helper()
	c, err := ParseConf(strings.NewReader(text), false)
	require.NoError(t, err)
	c.VMID = 101
	return c
}

func TestLiveSectionEndsWhereTheNextBegins(t *testing.T) {
	c := parse(t, full)
	require.Equal(t, "local:snippets/mine.sh", c.Hookscript)
	require.Equal(t, "web", c.Hostname)
	require.Equal(t, map[int]string{0: "/dev/nvidia0,mode=0666", 11: "path=/dev/dri/renderD128,gid=104"}, c.Dev)
	require.Equal(t, "/dev/dri/renderD128", devPath(c.Dev[11]))
	require.Len(t, c.LXC, 3)
}

func TestPendingChangesCountForTheNextStart(t *testing.T) {
	c := parse(t, full)
	require.Equal(t, []string{"dev0", "mp0"}, c.Delete)
	require.True(t, c.Waits())
	next := c.Next()
	require.Equal(t, map[int]string{2: "/dev/nvidiactl,mode=0666", 11: "path=/dev/dri/renderD128,gid=104"}, next.Dev)
	require.Contains(t, c.Dev, 0, "the live section stays as it is")
	require.False(t, parse(t, "arch: amd64\n[pve:pending]\nmemory: 2048\n").Waits())
}

func TestPendingValueWinsOverItsDeletion(t *testing.T) {
	next := parse(t, "hookscript: local:snippets/a\ndev0: /dev/fuse\ndev1: /dev/tty0\n[pve:pending]\ndelete: hookscript,dev0,dev1\ndev0: /dev/nvidia0\nhookscript: local:snippets/b\n").Next()
	require.Equal(t, map[int]string{0: "/dev/nvidia0"}, next.Dev)
	require.Equal(t, "local:snippets/b", next.Hookscript)
}

func TestSnapshotsStillNameTheHook(t *testing.T) {
	require.Equal(t, []string{"local:snippets/mine.sh", DefaultVolume}, parse(t, full).Hookscripts())
}

// vmConf has the sections that qemu-server writes, in its order.
const vmConf = `name: win
hookscript: local:snippets/mine.sh

[PENDING]
delete: hookscript
hookscript: local:snippets/pve-nvidia-hook

[special:cloudinit]
name: seen
hookscript: local:snippets/no-line-of-the-guest

[special:fleecing]
hookscript: local:snippets/no-line-of-the-guest

[pending]
delete: memory

[before-upgrade]
hookscript: nas:snippets/pve-nvidia-hook
`

func TestSectionsOfVMsAreTold(t *testing.T) {
	c, err := ParseConf(strings.NewReader(strings.Replace(vmConf, "[pending]\ndelete: memory\n\n", "", 1)), true)
	require.NoError(t, err)
	require.Equal(t, "win", c.Hostname)
	require.Equal(t, []string{"hookscript"}, c.Delete)
	require.Equal(t, []string{"local:snippets/mine.sh", DefaultVolume, "nas:snippets/pve-nvidia-hook"}, c.Hookscripts())

	c, err = ParseConf(strings.NewReader(vmConf), true)
	require.NoError(t, err)
	require.Equal(t, []string{"memory"}, c.Delete, "in whatever case, the last one counts")
	c, err = ParseConf(strings.NewReader("[PENDING]\nhookscript: local:snippets/x\n[a b]\nhostname: web\n"), false)
	require.NoError(t, err)
	require.Equal(t, "PENDING", c.Snapshots[0].Name, "of a container it is a snapshot's name")
	require.Equal(t, []string{"local:snippets/x"}, c.Hookscripts())
	require.Equal(t, "web", c.Snapshots[0].Hostname, "what is no heading ends nothing")
}

func TestLinesThatProxmoxPassesOverDoNotCount(t *testing.T) {
	for _, text := range []string{
		"#hookscript: local:snippets/x\n",
		" hookscript: local:snippets/x\n",
		"Hookscript: local:snippets/x\n",
		"hookscript:\n",
		"[a-snapshot]\nhookscript: local:snippets/x\n",
		"dev256: /dev/nvidia0\n",
		"dev99999999999999999999: /dev/nvidia0\n",
	} {
		c := parse(t, text)
		require.Empty(t, c.Hookscript, text)
		require.Empty(t, c.Dev, text)
	}
	require.Equal(t, "last", parse(t, "hostname: first\nhostname: last").Hostname)
}

func TestTooLargeAConfigurationIsRefused(t *testing.T) {
	_, err := ParseConf(strings.NewReader(strings.Repeat("#\n", maxFile)), false)
	require.ErrorContains(t, err, "larger than")
}

func FuzzParseConf(f *testing.F) {
	f.Add(full)
	f.Add("[pve:pending]\ndelete: ,;!dev0 dev\n[x")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseConf(strings.NewReader(text), true); err != nil {
			return
		}
		c, err := ParseConf(strings.NewReader(text), false)
		if err != nil {
			return
		}
		for n := range c.Next().Dev {
			if n < 0 || n > maxDev {
				t.Fatalf("dev%d", n)
			}
		}
		p := PlanDisable(c, State{Dev: map[int]string{0: "/dev/nvidia0"}}, "")
		if q, err := PlanEnable(c, State{}, Want{Choice: Choice{Devices: nodes}, Chain: true}); err == nil && len(q.Set) > len(nodes)+1 {
			t.Fatal(q.Set, p)
		}
	})
}

func FuzzParseStorages(f *testing.F) {
	f.Add("dir: local\n\tpath /var/lib/vz\n\tcontent iso,snippets\n\nnfs: nas\n\tserver a\n")
	f.Add("dir: x\n\tpath ../..\n\tcontent-dirs snippets=../../etc\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseStorages(strings.NewReader(text))
		if err != nil {
			return
		}
		for id, s := range all {
			if s.Path != "" && !strings.HasPrefix(s.Snippets, strings.TrimSuffix(s.Path, "/")) {
				t.Fatalf("%s: %s is not below %s", id, s.Snippets, s.Path)
			}
		}
	})
}
