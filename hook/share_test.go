package hook_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// sharing is a node whose container 101 has the entry of the shared driver in its
// configuration file.
func sharing(t *testing.T, module string) *node {
	n := newNode(t, module)
	t.Cleanup(func() { labtest.Unmount(n.Path("run/driver")) })
	// As /run is: root of an unprivileged container looks for the mount by its path.
	for dir := n.Dir; dir != os.TempDir(); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	n.shares(true)
	return n
}

// shares writes the configuration file that Proxmox has of container 101.
func (n *node) shares(yes bool) {
	n.t.Helper()
	dir := n.Path("host/etc/pve/nodes/pve1/lxc")
	require.NoError(n.t, os.MkdirAll(dir, 0o755))
	_ = os.Symlink("nodes/pve1", n.Path("host/etc/pve/local"))
	_ = os.Symlink("nodes/pve1/lxc", n.Path("host/etc/pve/lxc"))
	text := "hostname: ct\nunprivileged: 1\ndev0: /dev/nvidia0,mode=0666\n"
	if yes {
		text += pve.ShareEntry(n.Path("run/driver"), n.Path("run/driver-folders"), false) + "\n"
	}
	require.NoError(n.t, os.WriteFile(filepath.Join(dir, "101.conf"), []byte(text), 0o644))
}

// mounting is the kind of container with the entry, as LXC gets it of Proxmox.
func (n *node) mounting(spec lab.Spec) lab.Spec {
	spec.VMID = 101
	spec.ExtraConfig = append(spec.ExtraConfig, strings.Replace(pve.ShareEntry(n.Path("run/driver"), n.Path("run/driver-folders"), spec.Privileged), ":", " =", 1))
	return spec
}

// sharesVersion expects that programs of the container find the shared driver.
func (g *guest) sharesVersion(version string) {
	g.node.t.Helper()
	t := g.node.t
	require.Contains(t, g.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader"), version)
	require.Equal(t, "/usr/lib/pve-nvidia-hook/driver/bin/nvidia-smi", g.sh("readlink $(which nvidia-smi)"))
	require.Contains(t, g.sh("ldconfig -p"), "libcuda.so.1 (libc6,x86-64) => /usr/lib/pve-nvidia-hook/driver/lib/libcuda.so.1\n")
	require.Equal(t, "libnvidia-opencl.so.1", g.sh("cat /etc/OpenCL/vendors/nvidia.icd"))
	require.Equal(t, "", g.sh("find /usr/lib /lib /usr/lib64 -name 'libcuda.so*' -not -path '/usr/lib/pve-nvidia-hook/*' 2>/dev/null || true"))
	record, err := os.ReadFile(g.file("var/lib/pve-nvidia-hook/installed.json"))
	require.NoError(t, err)
	require.Contains(t, string(record), `"delivered": "share"`)
	require.Contains(t, string(record), `"version": "`+version+`"`)
}

// nothingShared expects that nothing of a set-up is left.
func (g *guest) nothingShared() {
	g.node.t.Helper()
	require.Equal(g.node.t, "", g.sh("find / -xdev -lname '/usr/lib/pve-nvidia-hook/*' 2>/dev/null; ls /etc/ld.so.conf.d/*pve-nvidia* 2>/dev/null; ldconfig -p | grep pve-nvidia-hook || true"))
}

func bothKinds(t *testing.T, test func(t *testing.T, spec lab.Spec)) {
	for name, privileged := range map[string]bool{"unprivileged": false, "privileged": true} {
		t.Run(name, func(t *testing.T) { test(t, lab.Spec{Privileged: privileged}) })
	}
}

func TestASharedDriverIsThereBeforeInitAndFollowsTheHost(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		require.Contains(t, n.run(0, "101", "pre-start"), "driver "+older+" is shared from now on")
		require.Empty(t, n.run(0, "101", "pre-start"), "what is ready is said nothing of")
		// The first command of init sees it.
		g := n.made(n.mounting(spec))
		script := "#!/bin/sh\nls /usr/lib/pve-nvidia-hook/driver/lib >/root/seen\nwhile :; do sleep infinity & wait; done\n"
		require.NoError(t, os.WriteFile(g.file("usr/local/sbin/lab-init"), []byte(script), 0o755))
		require.NoError(t, g.Start(t.Context()))
		seen := func(version string) {
			t.Helper()
			require.Eventually(t, func() bool { return strings.Contains(g.sh("cat /root/seen"), "libcuda.so."+version) }, 10*time.Second, 50*time.Millisecond)
		}
		seen(older)
		require.Contains(t, g.postStart(0), "driver "+older+" is shared with the container")
		g.sharesVersion(older)
		require.Contains(t, g.postStart(0), "is in place, shared by the node")
		require.NotContains(t, g.postStart(0), "nvidia-installer")

		// The host is upgraded. Whatever runs keeps what it has.
		require.NoError(t, n.Module(newer))
		n.run(0, "101", "pre-start")
		told, err := n.Run(t.Context(), "doctor", "101")
		require.NoError(t, err)
		require.Contains(t, told.Text, "it was started with the shared driver "+older+", "+newer+" is needed")
		require.NotContains(t, told.Text, " record:")
		said := g.postStart(1)
		require.Contains(t, said, "was started with the shared driver "+older)
		require.Contains(t, said, "pct reboot 101")
		require.Contains(t, g.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader"), older)
		require.NoError(t, g.Stop())
		require.NoError(t, g.Start(t.Context()))
		seen(newer)
		require.Contains(t, g.sh("ldconfig -p | grep libcuda.so.1"), "driver/lib/libcuda.so.1", "before the hook has done anything")
		g.postStart(0)
		g.sharesVersion(newer)

		require.Contains(t, n.run(0, "uninstall", "101"), "the driver is removed from the container")
		g.nothingShared()
		g.unrecorded()
	})
}

func TestAContainerStartsWhenThereIsNothingToShare(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.Mirror.Close()
		said := n.run(0, "101", "pre-start")
		require.Contains(t, said, "the container starts without the shared driver")
		g := n.start(n.mounting(spec))
		told, err := n.Run(t.Context(), "doctor", "101")
		require.NoError(t, err)
		require.Contains(t, told.Text, "problem  versions: the shared driver is not mounted in it")
		require.Contains(t, told.Text, "pve-nvidia-hook apply 101 makes it ready, then: pct reboot 101")
		said = g.postStart(1)
		require.Contains(t, said, "the shared driver is not mounted in the container")
		require.Contains(t, said, "pct reboot 101")
		require.NoError(t, n.Module(""))
		require.Contains(t, n.run(0, "101", "pre-start"), "no NVIDIA kernel module is loaded")
	})
}

func TestASlowFetchHoldsAStartNoLongerThanTheWait(t *testing.T) {
	n := sharing(t, older)
	n.configure("[share]\nwait = \"2s\"\n")
	// Somebody else prepares, and does not end.
	held := lockedBy(t, n.Path("run/driver.lock"))
	defer held.Close()
	said := n.run(0, "101", "pre-start")
	require.Contains(t, said, "not ready in 2s")
	require.Contains(t, said, "pve-nvidia-hook apply 101, then pct reboot 101")
}

// An installed driver goes when the shared one is seen to work, and comes back when
// nothing is shared any more.
func TestAnInstalledDriverIsSwitchedOverAndBack(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.shares(false)
		g := n.start(n.mounting(spec))
		g.postStart(0)
		g.holds(older)
		n.shares(true)
		require.Contains(t, n.run(1, "apply", "101"), "the shared driver is not mounted in the container")
		g.holds(older)
		require.NoError(t, g.Stop())
		require.NoError(t, g.Start(t.Context()))

		// The shared one does not work: the installed one stays.
		g.sh("echo 9 >/etc/sample-nvidia-smi")
		g.postStart(1)
		g.sh("rm /etc/sample-nvidia-smi")
		g.holds(older)
		g.nothingShared()

		require.Contains(t, n.run(0, "apply", "101"), "removed the installed driver "+older)
		g.sharesVersion(older)
		require.Equal(t, "", g.sh("ls /usr/bin/nvidia-uninstall /var/lib/nvidia 2>/dev/null || true"))

		n.shares(false)
		require.NoError(t, g.Stop())
		require.NoError(t, g.Start(t.Context()))
		require.Contains(t, g.postStart(0), "is to be installed, the container has had the shared one")
		g.holds(older)
		g.nothingShared()
	})
}

// Other libraries need another set-up, and what was changed by hand is put right.
func TestASetUpThatDiffersIsMadeAgain(t *testing.T) {
	n := sharing(t, newer)
	n.run(0, "101", "pre-start")
	g := n.start(n.mounting(lab.Spec{}))
	g.sh("mkdir -p /usr/share/nvidia; echo theirs >/usr/bin/nvidia-debugdump")
	require.Contains(t, g.postStart(0), "/usr/bin/nvidia-debugdump is there already and stays")
	require.Equal(t, "theirs", g.sh("cat /usr/bin/nvidia-debugdump"))
	g.sh("rm /usr/bin/nvidia-smi /etc/ld.so.conf.d/00-*; ldconfig")
	require.Contains(t, g.postStart(0), "is gone")
	g.sharesVersion(newer)
	g.sh(fmt.Sprintf("sed -i 's/\"layout\": \".*\"/\"layout\": \"other\"/' %s", "/var/lib/pve-nvidia-hook/installed.json"))
	require.Contains(t, g.postStart(0), "has other files than the set-up in the container was made for")
	g.sharesVersion(newer)
	// A record is a claim: it has nothing else removed than links of the set-up.
	g.sh(`cd /root; echo mine >precious; ln -s precious link; sed -i 's#"path": "/usr/bin/nvidia-smi"#"path": "/root/precious"#; s#"path": "/etc/OpenCL/vendors/nvidia.icd"#"path": "/root/link"#' /var/lib/pve-nvidia-hook/installed.json`)
	n.run(0, "uninstall", "101")
	require.Equal(t, "mine", g.sh("cat /root/link"))
}

// Container root, in both kinds of containers, with the entry as Proxmox has it.
func TestContainerRootCanChangeNothingOfTheSharedDriver(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.run(0, "101", "pre-start")
		g := n.start(n.mounting(spec))
		layout, err := filepath.Glob(n.Path("cache/*.share.*"))
		require.NoError(t, err)
		require.Len(t, layout, 1)
		before := everything(t, layout[0])
		const attack = `cd /usr/lib/pve-nvidia-hook/driver || exit 1
			for f in lib/libcuda.so.` + older + ` bin/nvidia-smi layout.json; do
				(echo x >$f) && echo "wrote $f"; (echo x >>$f) && echo "appended $f"; chmod 777 $f && echo "chmod $f"; chown 0:0 $f && echo "chown $f"
				rm -f $f && echo "removed $f"; mv $f $f.2 && echo "moved $f"; touch -d @1 $f && echo "touched $f"; ln $f lib/hard && echo "linked $f"
			done
			touch new && echo created; mkdir d && echo mkdir; mknod null c 1 3 && echo mknod; chmod 777 . && echo "chmod ."; true`
		check := func() {
			t.Helper()
			require.Equal(t, "", g.sh("("+attack+") 2>/dev/null"))
			require.Equal(t, before, everything(t, layout[0]))
		}
		check()
		g.sh("mount -o remount,bind,rw /usr/lib/pve-nvidia-hook/driver 2>/dev/null || true; mount -o remount,rw /usr/lib/pve-nvidia-hook/driver 2>/dev/null || true")
		check()
		// A file system freeze (FIFREEZE) and a watch of the whole file system
		// (fanotify_mark with FAN_MARK_FILESYSTEM) reach the overlay at most.
		var host unix.Stat_t
		require.NoError(t, unix.Stat(layout[0], &host))
		require.NotEqual(t, fmt.Sprint(host.Dev), g.sh("stat -c %d /usr/lib/pve-nvidia-hook/driver"))
		g.sh(`perl -e 'open(my $d, "<", "/usr/lib/pve-nvidia-hook/driver"); ioctl($d, 0xC0045877, 0)' 2>/dev/null || true`)
		require.NoError(t, os.WriteFile(n.Path("cache/not-frozen"), nil, 0o644))
		require.NotContains(t, g.sh("ls -a /usr/lib/pve-nvidia-hook/driver /usr/lib/pve-nvidia-hook/driver/.."), "cache")
	})
}

// Root of a privileged container could answer for each open on a mount that it shares
// with others, or not answer. fanotify_init(2) with FAN_CLASS_CONTENT and
// fanotify_mark(2) of the whole file system with FAN_OPEN_PERM, by their numbers on x86_64.
// The owner of a file could do so by a lease on it (F_SETLEASE of fcntl(2)), for 45 seconds:
// so the files of the mount must not belong to root of an unprivileged container.
func TestAContainerHoldsUpNobodyElsesOpens(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.run(0, "101", "pre-start")
		g := n.start(n.mounting(spec))
		const hold = `my $d = "/usr/lib/pve-nvidia-hook/driver";
open(my $f, "<", "$d/lib/libcuda.so.1"); $SIG{IO} = "IGNORE";
my $leased = fcntl($f, 1024, 1);
my $fd = syscall(300, 0x4, 0);
my $marked = $fd >= 0 && syscall(301, $fd, 0x101, 0x10000, -100, $d) == 0;
open(my $r, ">", "/root/ready"); print $r ($leased ? "leased " : "refused "), ($marked ? "marked" : "refused"); close $r;
sleep 600;`
		require.NoError(t, os.WriteFile(g.file("root/hold"), []byte(hold), 0o644))
		require.NoError(t, os.Chmod(g.file("root/hold"), 0o644))
		g.sh("perl /root/hold >/dev/null 2>&1 & for i in $(seq 100); do [ -s /root/ready ] && break; sleep 0.1; done")
		want := "refused refused"
		if spec.Privileged {
			want = "leased marked"
		}
		require.Equal(t, want, g.sh("cat /root/ready"))
		names, err := filepath.Glob(n.Path("cache/*.share.*/lib/libcuda.so.1"))
		require.NoError(t, err)
		require.Len(t, names, 1)
		for _, name := range append(names, n.Path("run/driver/lib/libcuda.so.1"), n.Path("run/driver/lib/libnvidia-ml.so.1")) {
			out, err := command("timeout", "-s", "KILL", "5", "head", "-c", "4", name)
			require.NoError(t, err, "an open on the host waits for the container")
			require.Equal(t, "\x7fELF", out)
		}
		require.NoError(t, g.Stop())
	})
}

// A process can list a folder into memory that it never lets the kernel write, and so
// holds the folder's lock. It must be that of a folder of the container's own overlay.
func TestAContainerHoldsNoFolderOfTheSharedDriver(t *testing.T) {
	n := sharing(t, older)
	n.run(0, "101", "pre-start")
	g := n.start(n.mounting(lab.Spec{Privileged: true}))
	t.Cleanup(func() { _ = g.Stop() }) // else what hangs would hold up the end of the test
	for _, dir := range []string{"lib", "bin", "."} {
		require.NoError(t, g.Hold(t.Context(), "/usr/lib/pve-nvidia-hook/driver/"+dir))
		look := exec.Command("stat", n.Path("run/driver/"+dir+"/no-such-name"))
		require.NoError(t, look.Start())
		ended := make(chan error, 1)
		go func() { ended <- look.Wait() }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatalf("a look at %s on the host waits for the container", dir)
		}
	}
	require.Equal(t, "held", g.sh("timeout -s KILL 1 ls /usr/lib/pve-nvidia-hook/driver/lib >/dev/null 2>&1 || echo held"))
}

// A direct read that never ends holds a file of the cache, which the layout links.
func TestAFileThatAContainerHoldsDelaysNoStart(t *testing.T) {
	n := sharing(t, older)
	n.run(0, "101", "pre-start")
	g := n.start(n.mounting(lab.Spec{Privileged: true}))
	t.Cleanup(func() { _ = g.Stop() }) // else what hangs would hold up the end of the test
	require.NoError(t, g.Hold(t.Context(), "/usr/lib/pve-nvidia-hook/driver/lib/libcuda.so."+older))
	layouts, err := filepath.Glob(n.Path("cache/*.share.*"))
	require.NoError(t, err)
	require.Len(t, layouts, 1)
	require.NoError(t, os.Rename(layouts[0], n.Path("aside")))
	require.NoError(t, unix.Unmount(n.Path("run/driver"), unix.MNT_DETACH))
	n.configure("[share]\nwait = \"3s\"\n")
	cmd := n.Command(t.Context(), "101", "pre-start")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	g.endsAs(0, cmd, 15*time.Second, nil)
	require.Contains(t, said.String(), "the container starts without the shared driver: not ready in 3s: ")
	require.NoError(t, g.Stop())
	n.run(0, "101", "pre-start")
	require.FileExists(t, n.Path("run/driver/lib/libcuda.so."+older))
}

// LXC itself makes the folder for the mount, and follows links of the container then.
func TestALinkInTheWayOfTheMountGetsAnEmptyFolderAtMost(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.run(0, "101", "pre-start")
		g := n.made(n.mounting(spec))
		hosts := n.Path("hosts")
		require.NoError(t, os.Mkdir(hosts, 0o755))
		require.NoError(t, os.Chmod(hosts, 0o777))
		require.NoError(t, os.Symlink(hosts, g.file("usr/lib/pve-nvidia-hook")))
		require.NoError(t, g.Start(t.Context()))
		require.Contains(t, g.postStart(1), "the shared driver is not mounted in the container")
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		require.NotContains(t, string(mounts), hosts)
		found, err := command("find", hosts, "-mindepth", "1")
		require.NoError(t, err)
		require.Contains(t, []string{"", hosts + "/driver\n"}, found)
	})
}

// A service of multi-user.target maps libcuda in its first second. Only at the very
// first start it may be earlier than the set-up.
func TestServicesFindTheSharedDriverAtOnce(t *testing.T) {
	bothKinds(t, func(t *testing.T, spec lab.Spec) {
		n := sharing(t, older)
		n.run(0, "101", "pre-start")
		spec.Systemd = true
		g := n.made(n.mounting(spec))
		// Each program that the loader starts for it has libcuda mapped, by the name that
		// programs ask for.
		const unit = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'ldconfig -p | sed -n \"s/.*libcuda.so.1 (libc6,x86-64) => //p\" | xargs -r readlink -f >>/root/mapped; LD_PRELOAD=libcuda.so.1 cat /proc/self/maps 2>/dev/null | grep -o \"libcuda.so.*\" | sort -u >>/root/mapped; echo end >>/root/mapped'\n"
		require.NoError(t, os.WriteFile(g.file("etc/systemd/system/app.service"), []byte(unit), 0o644))
		wants := g.file("etc/systemd/system/multi-user.target.wants")
		require.NoError(t, os.MkdirAll(wants, 0o755))
		require.NoError(t, os.Symlink("/etc/systemd/system/app.service", filepath.Join(wants, "app.service")))
		ran := func() string {
			t.Helper()
			var text []byte
			require.Eventually(t, func() bool {
				text, _ = os.ReadFile(g.file("root/mapped"))
				return strings.HasSuffix(string(text), "end\n")
			}, time.Minute, 100*time.Millisecond)
			require.NoError(t, os.Remove(g.file("root/mapped")))
			return string(text)
		}
		mapped := func(version string) string {
			return "/usr/lib/pve-nvidia-hook/driver/lib/libcuda.so." + version + "\nlibcuda.so." + version + "\nend\n"
		}
		require.NoError(t, g.Start(t.Context()))
		g.postStart(0)
		ran()
		require.NoError(t, g.Stop())
		require.NoError(t, g.Start(t.Context()))
		require.Equal(t, mapped(older), ran(), "after stop and start")
		g.postStart(0)

		require.NoError(t, n.Module(newer))
		n.run(0, "101", "pre-start")
		require.NoError(t, g.Stop())
		require.NoError(t, g.Start(t.Context()))
		require.Equal(t, mapped(newer), ran(), "after an upgrade of the host")
		g.postStart(0)

		// No hook runs at a reboot from inside.
		_, _ = g.Attach(t.Context(), "systemctl", "reboot")
		require.Equal(t, mapped(newer), ran(), "after a reboot inside")
	})
}

// A clone has the entry and the record, and another VMID.
func TestACloneHasTheSharedDriver(t *testing.T) {
	n := sharing(t, older)
	n.run(0, "101", "pre-start")
	g := n.start(n.mounting(lab.Spec{}))
	g.postStart(0)
	spec := n.mounting(lab.Spec{})
	spec.VMID = 102
	text, err := os.ReadFile(n.Path("host/etc/pve/nodes/pve1/lxc/101.conf"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.Path("host/etc/pve/nodes/pve1/lxc/102.conf"), text, 0o644))
	clone, err := n.lab.Container(t.Context(), spec)
	require.NoError(t, err)
	out, err := command("cp", "-a", g.Root+"/.", clone.Root)
	require.NoError(t, err, out)
	require.NoError(t, clone.Start(t.Context()))
	c := &guest{clone, n}
	require.Contains(t, c.postStart(0), "is in place, shared by the node")
	c.sharesVersion(older)
}

// lockedBy holds a lock as another process would.
func lockedBy(t *testing.T, file string) *os.File {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return f
}

// everything is all that must not change in a folder: names, modes, owners, times and
// content.
func everything(t *testing.T, dir string) string {
	t.Helper()
	out, err := command("sh", "-c", "cd "+dir+" && find . -printf '%P %y %m %U %G %s %T@ %n\\n' | sort && find . -type f | sort | xargs sha256sum")
	require.NoError(t, err, out)
	return out
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

func TestManyStartsAtOnceMakeOneDownloadAndOneMount(t *testing.T) {
	n := sharing(t, older)
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			said, err := n.Run(t.Context(), "101", "pre-start")
			assert.NoError(t, err)
			assert.Zero(t, said.Code)
			assert.NotContains(t, said.Text, "starts without")
		})
	}
	group.Wait()
	require.Equal(t, 1, n.runFileGets(older))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(mounts), " "+n.Path("run/driver")+" "))
}

// The node's boot makes the mount before the guests start, and downloads nothing; apply
// makes it for a module that was exchanged on the running node; prune leaves what a
// container may still have.
func TestBootApplyAndPruneKnowTheSharedDriver(t *testing.T) {
	n := sharing(t, older)
	_, err := n.Run(t.Context(), "devices") // there is no GPU to make nodes for
	require.NoError(t, err)
	require.NoFileExists(t, n.Path("run/driver/layout.json"))
	require.Zero(t, n.runFileGets(older))
	n.run(0, "cache", "fetch", older)
	_, err = n.Run(t.Context(), "devices")
	require.NoError(t, err)
	require.FileExists(t, n.Path("run/driver/lib/libcuda.so."+older))

	g := n.start(n.mounting(lab.Spec{}))
	g.postStart(0)
	require.NoError(t, n.Module(newer))
	require.Contains(t, n.run(1, "apply", "101"), "pct reboot 101")
	require.FileExists(t, n.Path("run/driver/lib/libcuda.so."+newer))
	n.run(0, "cache", "prune", "--keep", "1")
	require.NoDirExists(t, n.Path("cache/NVIDIA-Linux-x86_64-"+older))
	require.Contains(t, g.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader"), older, "its files are still there")
	// After the next boot nobody has it.
	require.NoError(t, g.Stop())
	require.NoError(t, os.RemoveAll(n.Path("run/shared")))
	n.run(0, "cache", "prune", "--keep", "1")
	left, err := filepath.Glob(n.Path("cache/*" + older + "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
