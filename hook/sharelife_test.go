package hook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// confFile is the file that Proxmox has of a container.
func (n *node) confFile(vmid int) string {
	return n.Path("host/etc/pve/nodes/pve1/lxc", strconv.Itoa(vmid)+".conf")
}

// asConfigured is the kind of container that LXC gets of a container's file.
func (n *node) asConfigured(vmid int, spec lab.Spec) lab.Spec {
	n.t.Helper()
	text, err := os.ReadFile(n.confFile(vmid))
	require.NoError(n.t, err)
	spec.VMID, spec.ExtraConfig = vmid, nil
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "lxc.") {
			spec.ExtraConfig = append(spec.ExtraConfig, strings.Replace(strings.TrimSpace(line), ":", " =", 1))
		}
	}
	return spec
}

// first has a container write down, as the first command of its init, which driver is there.
func (g *guest) first() {
	g.node.t.Helper()
	const script = "#!/bin/sh\nreadlink /usr/lib/pve-nvidia-hook/driver/lib/libcuda.so.1 >/root/seen || echo none >/root/seen\nwhile :; do sleep infinity & wait; done\n"
	require.NoError(g.node.t, os.WriteFile(g.file("usr/local/sbin/lab-init"), []byte(script), 0o755))
}

// A node's boot, with more containers than it has cores: one download and one mount
// serve them all, and each has the driver before its init does anything.
func TestSixtyContainersAtOnceHaveTheSharedDriverBeforeInit(t *testing.T) {
	const crowd = 60
	n := sharing(t, older)
	var guests []*guest
	for i := range crowd {
		spec := lab.Spec{Privileged: i%2 == 1}
		entry := pve.ShareEntry(n.Path("run/driver"), n.Path("run/driver-folders"), spec.Privileged)
		require.NoError(t, os.WriteFile(n.confFile(201+i), []byte("hostname: ct\ndev0: /dev/nvidia0,mode=0666\n"+entry+"\n"), 0o644))
		made, err := n.lab.Container(t.Context(), n.asConfigured(201+i, spec))
		require.NoError(t, err)
		g := &guest{made, n}
		g.first()
		guests = append(guests, g)
	}
	began := time.Now()
	var group sync.WaitGroup
	started, ready := make([]time.Duration, crowd), make([]time.Duration, crowd)
	for i, g := range guests {
		group.Go(func() {
			phase := func(name string) {
				said, err := n.Run(t.Context(), strconv.Itoa(g.VMID), name)
				assert.NoError(t, err)
				assert.Zero(t, said.Code, said.Text)
				assert.NotContains(t, said.Text, "starts without")
			}
			phase("pre-start")
			if !assert.NoError(t, g.Start(t.Context())) {
				return
			}
			started[i] = time.Since(began)
			phase("post-start")
			ready[i] = time.Since(began)
		})
	}
	group.Wait()
	for _, g := range guests {
		seen, err := os.ReadFile(g.file("root/seen"))
		require.NoError(t, err)
		require.Equal(t, "libcuda.so."+older+"\n", string(seen), g.VMID)
	}
	require.Equal(t, 1, n.runFileGets(older))
	guests[0].sharesVersion(older)
	guests[crowd-1].sharesVersion(older)
	var lastStarted, lastReady time.Duration
	for i := range guests {
		lastStarted, lastReady = max(lastStarted, started[i]), max(lastReady, ready[i])
	}
	t.Logf("%d containers: the last one runs after %.1f s, and is set up after %.1f s", crowd, lastStarted.Seconds(), lastReady.Seconds())
}

// A container made from an OCI image: the application is init, and there is no systemd.
// It maps libcuda as its first act, by the name that programs ask for.
func TestAnApplicationThatIsInitMapsTheSharedDriverAtOnce(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.run(0, "101", "pre-start")
		g := n.made(n.mounting(spec))
		const app = `#!/usr/bin/perl
require DynaLoader;
my $lib = DynaLoader::dl_load_file("libcuda.so.1");
open(my $maps, "<", "/proc/self/maps");
my ($mapped) = grep { /libcuda/ } <$maps>;
open(my $out, ">", "/root/mapped.new");
print $out ($lib && $mapped =~ m{(libcuda\.so\.\S+)} ? $1 : "none"), "\n";
close $out;
rename "/root/mapped.new", "/root/mapped";
while (1) { wait() > 0 or sleep 1 }
`
		require.NoError(t, os.WriteFile(g.file("usr/local/sbin/lab-init"), []byte(app), 0o755))
		mapped := func(want, when string) {
			t.Helper()
			var text []byte
			require.Eventually(t, func() bool {
				text, _ = os.ReadFile(g.file("root/mapped"))
				return len(text) > 0
			}, 20*time.Second, 50*time.Millisecond, when)
			require.Equal(t, want+"\n", string(text), when)
			require.NoError(t, os.Remove(g.file("root/mapped")))
		}
		restart := func() {
			t.Helper()
			require.NoError(t, g.Stop())
			require.NoError(t, g.Start(t.Context()))
		}
		require.NoError(t, g.Start(t.Context()))
		mapped("none", "the very first start, earlier than the set-up")
		require.Contains(t, g.postStart(0), "pct reboot 101")
		restart()
		mapped("libcuda.so."+older, "after a restart")
		require.Contains(t, g.postStart(0), "is in place, shared by the node")
		require.NoError(t, n.Module(newer))
		n.run(0, "101", "pre-start")
		restart()
		mapped("libcuda.so."+newer, "after an upgrade of the host")
		g.postStart(0)
	})
}

// One that ends without libcuda would never live until post-start: its environment has to
// name the folder, and then its very first start has the driver too.
func TestAnApplicationThatEndsWithoutLibcudaFindsItByItsEnvironment(t *testing.T) {
	n := sharing(t, older)
	n.run(0, "101", "pre-start")
	spec := n.mounting(lab.Spec{})
	spec.ExtraConfig = append(spec.ExtraConfig, "lxc.environment = LD_LIBRARY_PATH=/usr/lib/pve-nvidia-hook/driver/lib")
	made, err := n.lab.Container(t.Context(), spec)
	require.NoError(t, err)
	g := &guest{made, n}
	const app = "#!/usr/bin/perl\nrequire DynaLoader;\nDynaLoader::dl_load_file(\"libcuda.so.1\") or exit 1;\nwhile (1) { wait() > 0 or sleep 1 }\n"
	require.NoError(t, os.WriteFile(g.file("usr/local/sbin/lab-init"), []byte(app), 0o755))
	require.NoError(t, g.Start(t.Context()))
	g.postStart(0)
	g.sharesVersion(older)
}

// archive is what vzdump keeps of a container's disk: its root, and nothing that is mounted in it.
func (g *guest) archive() string {
	g.node.t.Helper()
	file := filepath.Join(g.node.t.TempDir(), "backup.tar")
	out, err := command("tar", "--one-file-system", "--numeric-owner", "-C", g.Root, "-cf", file, ".")
	require.NoError(g.node.t, err, out)
	return file
}

// unpack puts an archive in the place of a stopped container's root.
func (g *guest) unpack(file string) {
	g.node.t.Helper()
	out, err := command("find", g.Root, "-mindepth", "1", "-delete")
	require.NoError(g.node.t, err, out)
	out, err = command("tar", "--numeric-owner", "-C", g.Root, "-xpf", file)
	require.NoError(g.node.t, err, out)
}

func TestABackupHasTheEntryAndNotTheDriver(t *testing.T) {
	n := sharing(t, older)
	n.run(0, "101", "pre-start")
	g := n.start(n.asConfigured(101, lab.Spec{}))
	g.postStart(0)
	backup := g.archive()
	listed, err := command("tar", "-tf", backup)
	require.NoError(t, err)
	require.NotContains(t, listed, "libcuda")
	require.Contains(t, listed, "./usr/lib/pve-nvidia-hook/driver/\n", "the empty folder of the mount")
	conf, err := os.ReadFile(n.confFile(101))
	require.NoError(t, err)

	restored := func(vmid int, conf string) *guest {
		t.Helper()
		require.NoError(t, os.WriteFile(n.confFile(vmid), []byte(conf), 0o644))
		made, err := n.lab.Container(t.Context(), n.asConfigured(vmid, lab.Spec{}))
		require.NoError(t, err)
		c := &guest{made, n}
		c.unpack(backup)
		n.run(0, strconv.Itoa(vmid), "pre-start")
		require.NoError(t, c.Start(t.Context()))
		return c
	}
	// The host has another driver by now. Nothing of the backup is out of date.
	require.NoError(t, n.Module(newer))
	byRoot := restored(102, string(conf))
	require.Contains(t, byRoot.postStart(0), "driver "+newer+" is shared with the container")
	byRoot.sharesVersion(newer)

	// Proxmox leaves out all lxc lines when another user than root@pam restores
	// (sanitize_and_merge_config of PVE::LXC::Create). Then the driver is installed.
	kept, _, _ := strings.Cut(string(conf), "lxc.")
	byUser := restored(103, kept)
	require.Contains(t, byUser.postStart(0), "is to be installed, the container has had the shared one")
	byUser.holds(newer)
	byUser.nothingShared()
}

func TestARollbackTakesTheDriverOfItsTime(t *testing.T) {
	n := sharing(t, older)
	n.shares(false)
	g := n.start(n.mounting(lab.Spec{}))
	g.postStart(0)
	g.holds(older)
	snapshot := func() func() {
		conf, err := os.ReadFile(n.confFile(101))
		require.NoError(t, err)
		disk := g.archive()
		return func() {
			t.Helper()
			require.NoError(t, g.Stop())
			g.unpack(disk)
			require.NoError(t, os.WriteFile(n.confFile(101), conf, 0o644))
			n.run(0, "101", "pre-start")
			require.NoError(t, g.Start(t.Context()))
		}
	}
	installed := snapshot()
	n.shares(true)
	n.run(0, "101", "pre-start")
	require.NoError(t, g.Stop())
	require.NoError(t, g.Start(t.Context()))
	g.postStart(0)
	g.sharesVersion(older)
	shared := snapshot()

	installed()
	require.Contains(t, g.postStart(0), "driver "+older+" is in place")
	g.holds(older)
	g.nothingShared()

	require.NoError(t, n.Module(newer))
	shared()
	require.Contains(t, g.postStart(0), fmt.Sprintf("driver %s is shared with the container", newer))
	g.sharesVersion(newer)
}
