package hook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

func TestFirstStartInstallsAndTheNextSkips(t *testing.T) {
	for name, c := range map[string]struct {
		spec    lab.Spec
		deliver string
	}{
		"unprivileged, mount": {lab.Spec{}, "mount"},
		"unprivileged, push":  {lab.Spec{}, "push"},
		"privileged, mount":   {lab.Spec{Privileged: true}, "mount"},
		"privileged, push":    {lab.Spec{Privileged: true}, "push"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, newer)
			n.configure("[install]\ndeliver = \"" + c.deliver + "\"\n")
			g := n.start(c.spec)
			require.NoFileExists(t, g.file("usr/sbin/modprobe"), "the container must have no kmod for this test")

			said := g.postStart(0)
			require.Contains(t, said, "driver "+newer+" is installed and nvidia-smi works")
			require.Contains(t, said, "delivered by "+c.deliver)
			require.Less(t, strings.Count(said, "\n"), 25, said)
			for line := range strings.Lines(said) {
				require.True(t, strings.HasPrefix(line, fmt.Sprintf("pve-nvidia-hook %d: ", g.VMID)), line)
			}
			g.holds(newer)
			require.Equal(t, 1, n.runFileGets(newer))

			before := n.Mirror.Total()
			said = g.postStart(0)
			require.Contains(t, said, "driver "+newer+" is in place")
			require.Equal(t, 1, strings.Count(said, "\n"), said)
			require.Equal(t, before, n.Mirror.Total(), "a skip must not touch the network")
		})
	}
}

func TestAMissingPinComesBackAtAStartThatHasNothingElseToDo(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	pin := g.file("etc/apt/preferences.d/pve-nvidia-hook")
	require.FileExists(t, pin)
	require.NoError(t, os.Remove(pin))
	n.run(0, "apply", fmt.Sprint(g.VMID), "--dry-run")
	require.NoFileExists(t, pin)
	said := g.postStart(0)
	require.Contains(t, said, "keep the distribution's driver out")
	require.Contains(t, said, "driver "+newer+" is in place")
	require.FileExists(t, pin)
	require.Equal(t, 1, strings.Count(g.postStart(0), "\n"))
}

func TestDriverPackagesAreReplacedWhenAsked(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	const dir = "/usr/lib/x86_64-linux-gnu/"
	for _, p := range []cudatest.Package{
		{Name: "libcuda1", Version: "535.261.03-1", Files: map[string]string{dir + "libcuda.so.535.261.03": "theirs\n"}},
		{Name: "needs-cuda", Version: "1", Depends: "libcuda1"},
	} {
		require.NoError(t, os.WriteFile(g.file("root/"+p.Name+".deb"), p.Deb(), 0o644))
		g.sh("dpkg -i /root/" + p.Name + ".deb")
	}
	vmid := fmt.Sprint(g.VMID)
	require.Contains(t, g.postStart(1), "pve-nvidia-hook apply "+vmid+" --replace-packages removes them")
	require.Contains(t, n.run(0, "apply", vmid, "--replace-packages", "--dry-run"), "remove the distribution's packages of the driver")
	said := n.run(1, "apply", vmid, "--replace-packages")
	require.Contains(t, said, "others need them: needs-cuda")
	require.Contains(t, said, "hint: ")
	require.FileExists(t, g.file(dir+"libcuda.so.535.261.03"))
	g.sh("dpkg --purge needs-cuda")
	said = n.run(0, "apply", vmid, "--replace-packages")
	require.Contains(t, said, "removed the distribution's driver packages (1 package)")
	g.holds(newer)
	require.NoFileExists(t, g.file(dir+"libcuda.so.535.261.03"))
}

func TestASkipStartsNoProgram(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	n.Env = append(n.Env, "PATH="+t.TempDir())
	require.Contains(t, g.postStart(0), "driver "+newer+" is in place")
}

func TestWhereATreeCannotBeMountedTheRunFileIsCopied(t *testing.T) {
	labtest.Program(t, "bindfs")
	n := newNode(t, newer)
	require.NoError(t, os.Mkdir(n.Cache(), 0o755))
	out, err := exec.Command("bindfs", t.TempDir(), n.Cache()).CombinedOutput()
	require.NoError(t, err, string(out))
	t.Cleanup(func() { syscall.Unmount(n.Cache(), syscall.MNT_DETACH) })
	g := n.start(lab.Spec{})
	said := g.postStart(0)
	require.Contains(t, said, "copying the unpacked run file instead of mounting it: ")
	require.Contains(t, said, "no mount is available that is safe from the container: overlay of "+n.Cache())
	require.Contains(t, said, "delivered by push")
	g.holds(newer)
}

func TestDriverFollowsTheHostUpAndDown(t *testing.T) {
	n := newNode(t, older)
	g := n.start(lab.Spec{})
	g.postStart(0)
	g.holds(older)
	// Upgrade and downgrade must not call rmmod: in a privileged container that
	// would reach the host's modules. This one would notice.
	for _, tool := range []string{"modprobe", "rmmod", "lsmod", "depmod"} {
		g.sh("printf '#!/bin/sh\\necho " + tool + " \"$@\" >>/kmod-calls\\n' >/usr/local/sbin/" + tool + "; chmod +x /usr/local/sbin/" + tool)
	}
	for _, version := range []string{newer, older} {
		require.NoError(t, n.Module(version))
		said := g.postStart(0)
		require.Contains(t, said, "removed driver")
		g.holds(version)
		require.Empty(t, g.sh("ls /usr/lib/x86_64-linux-gnu | grep -E 'so\\.[0-9]{3}\\.' | grep -v '"+version+"$' || true"), "libraries of the other version are left")
	}
	require.NoFileExists(t, g.file("kmod-calls"))
}

func TestMismatchIsRefusedBeforeAnyRequest(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[driver]\nversion = \"" + older + "\"\n")
	g := n.start(lab.Spec{})
	said := g.postStart(1)
	require.Contains(t, said, "driver "+older+" is wanted but the host's kernel module is "+newer)
	require.Contains(t, said, "hint: ")
	require.Contains(t, said, "nothing was changed; the container has no working driver (")
	require.Zero(t, n.Mirror.Total())
	g.unrecorded()
}

func TestNoModuleIsRefusedUnlessInstallingAhead(t *testing.T) {
	n := newNode(t, "")
	g := n.start(lab.Spec{})
	require.Contains(t, g.postStart(1), "no NVIDIA kernel module is loaded on this host")

	n.configure("[driver]\nversion = \"" + newer + "\"\non_mismatch = \"install\"\n")
	require.Contains(t, g.postStart(0), "nvidia-smi is left out until the host's module is "+newer)
	g.holds(newer)

	// Once the module is there, what was left out is made up for.
	require.NoError(t, n.Module(newer))
	said := g.postStart(0)
	require.Contains(t, said, "nvidia-smi says "+newer)
	require.NotContains(t, said, "nvidia-installer")
	require.Contains(t, g.postStart(0), "is in place")
}

func TestAStaleCloneIsPutRight(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	record, err := os.ReadFile(g.file("var/lib/pve-nvidia-hook/installed.json"))
	require.NoError(t, err)

	// A second container, of the older version, with the first one's record.
	require.NoError(t, n.Module(older))
	clone := n.start(lab.Spec{VMID: g.VMID + 1})
	clone.postStart(0)
	require.NoError(t, n.Module(newer))
	require.NoError(t, os.WriteFile(clone.file("var/lib/pve-nvidia-hook/installed.json"), record, 0o644))
	require.Contains(t, clone.postStart(0), "is installed and nvidia-smi works")
	clone.holds(newer)
}

func TestDamageIsNoticedAndRepaired(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	lib := "/usr/lib/x86_64-linux-gnu/"
	for name, damage := range map[string]string{
		"a library is gone":             "rm " + lib + "libnvidia-ptxjitcompiler.so." + newer,
		"a library is empty":            ": >" + lib + "libcuda.so." + newer,
		"a link leads elsewhere":        "ln -sf libcuda.so.1.1 " + lib + "libcuda.so.1",
		"nvidia-smi is gone":            "rm /usr/bin/nvidia-smi",
		"the record is gone":            "rm /var/lib/pve-nvidia-hook/installed.json",
		"the record is no JSON":         "echo x >/var/lib/pve-nvidia-hook/installed.json",
		"a library is a folder":         "rm " + lib + "libcuda.so." + newer + "; mkdir " + lib + "libcuda.so." + newer + "; rmdir " + lib + "libcuda.so." + newer,
		"an older install was restored": "sed -i 's/" + newer + "/" + older + "/g' /var/lib/pve-nvidia-hook/installed.json",
	} {
		t.Run(name, func(t *testing.T) {
			g.sh(damage)
			require.NotContains(t, g.postStart(0), "is in place (")
			g.holds(newer)
			require.Contains(t, g.postStart(0), "is in place (")
		})
	}
	require.Equal(t, 1, n.runFileGets(newer), "repairs are served from the cache")
}

func TestInstallerThatLiesIsCaught(t *testing.T) {
	n := newNode(t, newer)
	for fault, want := range map[string]string{
		"exit0-nothing":     "driver " + newer + " is not installed: there is no libcuda.so." + newer,
		"skip=libnvidia-ml": "driver " + newer + " is not completely installed",
		"rc=1":              "failed with exit status 1",
		"die-half":          "failed with exit status 137",
	} {
		t.Run(fault, func(t *testing.T) {
			g := n.start(lab.Spec{VMID: 200})
			defer g.Close()
			g.sh("echo " + fault + " >/etc/sample-nvidia-installer")
			said := g.postStart(1)
			require.Contains(t, said, want)
			require.Contains(t, said, "hint: ")
			require.Contains(t, said, "nvidia-installer.log: ", "the end of its log is shown")
			require.Contains(t, said, "not installed: the container has no working driver (")
			g.unrecorded()
			g.sh("rm /etc/sample-nvidia-installer")
			n.run(0, "replay", "200", "post-start", "--force")
			g.holds(newer)
		})
	}
}

func TestEachFailureOfNvidiaSMIIsExplained(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	for fault, want := range map[string]string{
		"nodes":         "the container has no GPU",
		"9":             "the container has no GPU",
		"255":           "the container has no GPU",
		"12":            "libnvidia-ml.so.1 is not found",
		"18":            "of different versions",
		"4":             "may not open the GPU's device nodes",
		"version=1.2.3": "nvidia-smi says version 1.2.3 instead of " + newer,
	} {
		t.Run(fault, func(t *testing.T) {
			g.sh("echo " + fault + " >/etc/sample-nvidia-smi")
			said := n.run(1, "replay", fmt.Sprint(g.VMID), "post-start", "--force", "--log-level", "info")
			require.Contains(t, said, want)
			require.Contains(t, said, "hint: ")
			g.clean()
		})
	}
	g.sh("touch /dev/nvidia0 && echo 9 >/etc/sample-nvidia-smi")
	require.Contains(t, n.run(1, "replay", fmt.Sprint(g.VMID), "post-start", "--force", "--log-level", "info"), "it cannot talk to the kernel module")
	g.sh("rm /etc/sample-nvidia-smi")
	n.run(0, "replay", fmt.Sprint(g.VMID), "post-start", "--force")
	g.holds(newer)
}

// Files that are right are not installed again because nvidia-smi fails.
func TestOnlyNvidiaSMIIsAskedAgainWhenOnlyThatFailed(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo nodes >/etc/sample-nvidia-smi")
	g.postStart(1)
	number := "stat -c %i /usr/lib/x86_64-linux-gnu/libcuda.so." + newer
	installed := g.sh(number)

	said := n.run(1, "apply", fmt.Sprint(g.VMID))
	require.Contains(t, said, "driver "+newer+" was installed but only its files were checked so far")
	require.Contains(t, said, "the container has no GPU")
	require.NotContains(t, said, "not installed yet")
	require.Equal(t, installed, g.sh(number))

	g.sh("rm /etc/sample-nvidia-smi")
	n.run(0, "apply", fmt.Sprint(g.VMID))
	g.holds(newer)
	require.Equal(t, installed, g.sh(number))
}

// A driver of the right version that somebody has installed by hand is taken over
// when it is whole, and installed again when it is not.
func TestADriverThatIsThereIsTakenOver(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	number := "stat -c %i /usr/lib/x86_64-linux-gnu/libcuda.so." + newer
	installed := g.sh(number)
	g.sh("rm -r /var/lib/pve-nvidia-hook")
	require.Contains(t, g.postStart(0), "driver "+newer+" is in the container and nothing says that it was verified")
	g.holds(newer)
	require.Equal(t, installed, g.sh(number))

	g.sh("rm -r /var/lib/pve-nvidia-hook /usr/lib/x86_64-linux-gnu/libnvidia-nvvm.so." + newer)
	require.Contains(t, g.postStart(0), "it cannot be taken over and is installed again: driver "+newer+" is not completely installed")
	g.holds(newer)
	require.NotEqual(t, installed, g.sh(number))
}

func TestAChangeOfCapabilitiesIsFollowed(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[driver]\ncapabilities = [\"compute\", \"utility\"]\n")
	g := n.start(lab.Spec{})
	g.postStart(0)
	g.holds(newer)
	const lib = "usr/lib/x86_64-linux-gnu/"
	require.NoFileExists(t, g.file(lib+"libnvidia-glcore.so."+newer))
	require.Contains(t, g.postStart(0), "driver "+newer+" is in place")

	n.configure("[containers.101]\ncapabilities = [\"compute\", \"utility\", \"graphics\"]\n")
	require.Contains(t, g.postStart(0), "the driver has the capabilities compute, utility; compute, utility, graphics are configured")
	g.holds(newer)
	require.FileExists(t, g.file(lib+"libnvidia-glcore.so."+newer))
}

func TestHangingInstallerLeavesNothingRunning(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"3s\"\n")
	g := n.start(lab.Spec{})
	for _, fault := range []string{"hang", "hang-ignore-term", "fork hang"} {
		t.Run(fault, func(t *testing.T) {
			g.sh("echo '" + fault + "' >/etc/sample-nvidia-installer")
			began := time.Now()
			said := n.run(1, "replay", fmt.Sprint(g.VMID), "post-start", "--force", "--log-level", "info")
			require.Contains(t, said, "did not end within 3s")
			require.Less(t, time.Since(began), 20*time.Second)
			g.unrecorded()
		})
	}
}

func TestFullDiskIsSaidBeforeAnythingIsWritten(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{SizeLimit: 48 << 20})
	said := g.postStart(1)
	require.Contains(t, said, "free")
	require.Contains(t, said, "are needed")
	require.Contains(t, said, "pct resize")
	require.NoFileExists(t, g.file("usr/bin/nvidia-smi"))
	g.unrecorded()
}

func TestEightContainersAtOnceFetchOnce(t *testing.T) {
	n := newNode(t, newer)
	n.Mirror.Rate = 5 << 20 // slow enough for all to meet
	var guests []*guest
	for i := range 8 {
		guests = append(guests, n.start(lab.Spec{VMID: 300 + i, Privileged: i%2 == 0}))
	}
	var all sync.WaitGroup
	texts := make([]string, len(guests))
	for i, g := range guests {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			said, err := n.Hook(ctx, g.VMID, "post-start")
			texts[i] = said.Text
			if err != nil || said.Code != 0 {
				t.Errorf("container %d: exit status %d, %v: %s", g.VMID, said.Code, err, said.Text)
			}
		})
	}
	all.Wait()
	for _, g := range guests {
		g.holds(newer)
	}
	require.Equal(t, 1, n.runFileGets(newer))
	require.Contains(t, strings.Join(texts, ""), "held by pid", "who waits says for whom")
}

func TestWhatStandsInTheWayIsNamed(t *testing.T) {
	n := newNode(t, newer)
	for name, c := range map[string]struct{ prepare, want string }{
		"a driver package": {
			`printf '\nPackage: libcuda1\nStatus: install ok installed\nVersion: 535.1\n' >>/var/lib/dpkg/status`,
			"distribution packages of the driver are installed: libcuda1",
		},
		"musl": {
			`touch /lib/ld-musl-x86_64.so.1; mv /lib64/ld-linux-x86-64.so.2 /lib64/x`,
			"musl (Alpine)",
		},
		"no shell": {`mv /usr/bin/sh /usr/bin/nosh`, "has no /bin/sh"},
		"packages of rpm": {
			`rm -r /var/lib/dpkg; mkdir -p /var/lib/rpm; touch /var/lib/rpm/rpmdb.sqlite; ln -s libcuda.so.535.104.05 /usr/lib64/libcuda.so.1`,
			"driver 535.104.05 is in the container, but no run file installed it",
		},
		"the host's files": {`true`, "files of the host's driver are mounted into the container, the first of 1 is /usr/bin/nvidia-smi"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := lab.Spec{VMID: 200}
			if name == "the host's files" {
				spec.ExtraConfig = []string{"lxc.mount.entry = /etc/hostname usr/bin/nvidia-smi none bind,ro,create=file"}
			}
			g := n.start(spec)
			defer g.Close()
			g.sh(c.prepare)
			said := g.postStart(1)
			require.Contains(t, said, c.want)
			require.Contains(t, said, "hint: ")
			require.Contains(t, said, "nothing was changed; the container has no working driver (")
			require.NoDirExists(t, g.file("var/lib/pve-nvidia-hook"))
		})
	}
	require.Zero(t, n.Mirror.Total(), "a refusal must not fetch")
}

func TestKilledHalfWayAndRunAgain(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo slow=1 >/etc/sample-nvidia-installer")
	cmd := n.Command(t.Context(), fmt.Sprint(g.VMID), "post-start")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(g.file("var/lib/nvidia/log"))
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	require.NoFileExists(t, g.file("var/lib/pve-nvidia-hook/installed.json"))
	g.sh("rm /etc/sample-nvidia-installer")

	// A next run that refuses to install takes away what was left all the same.
	n.configure("[driver]\nversion = \"" + older + "\"\n")
	require.Contains(t, g.postStart(1), "driver "+older+" is wanted but")
	g.unrecorded()

	n.configure("")
	g.postStart(0)
	g.holds(newer)
}

func TestSIGTERMEndsItCleanlyWithinTwoSeconds(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo hang >/etc/sample-nvidia-installer")
	cmd := n.Command(t.Context(), fmt.Sprint(g.VMID), "post-start")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(g.file("var/lib/pve-nvidia-hook/stage/bin/depmod"))
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	time.Sleep(200 * time.Millisecond) // into the installer
	began := time.Now()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // exit status 1
	require.Less(t, time.Since(began), 2*time.Second)
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	g.unrecorded()
	g.sh("rm /etc/sample-nvidia-installer")
	g.postStart(0)
	g.holds(newer)
}

func TestRecordNamesEveryFile(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	data, err := os.ReadFile(g.file("var/lib/pve-nvidia-hook/installed.json"))
	require.NoError(t, err)
	var in struct {
		Files []struct{ Path, Link string }
	}
	require.NoError(t, json.Unmarshal(data, &in))
	names := map[string]bool{}
	for _, f := range in.Files {
		names[filepath.Base(f.Path)] = true
	}
	for _, want := range []string{"libcuda.so." + newer, "libcuda.so.1", "libnvidia-ml.so.1", "nvidia-smi"} {
		require.True(t, names[want], want)
	}
}

func TestForAVGPUHostNothingIsFetched(t *testing.T) {
	n := newNode(t, newer)
	require.NoError(t, os.MkdirAll(n.Path("host/sys/module/nvidia_vgpu_vfio"), 0o755))
	g := n.start(lab.Spec{})
	const said = "this host has the vGPU host driver (vgpu-kvm), which is for virtual machines: containers cannot use it"
	require.Contains(t, g.postStart(1), said)
	require.Contains(t, n.run(1, "cache", "fetch", "host"), said)
	require.Zero(t, n.Mirror.Total())

	// What was put into the cache by hand is taken, such as the driver for guests.
	n.run(0, "cache", "add", filepath.Join(samples, fakerun.Spec{Version: newer}.Name()))
	n.run(0, "apply", fmt.Sprint(g.VMID))
	g.holds(newer)
}

func TestAnotherLibcudaThatTheLoaderPrefersIsNamed(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	// As cuda-compat does it: a library with that name, in a folder that comes first.
	g.sh(`mkdir /opt/compat && LC_ALL=C sed 's/libresolv\.so\.2/libcuda.so.1\x00\x00/g' /usr/lib/*-linux-gnu/libresolv.so.2 >/opt/compat/libcuda.so.550.54.15 &&
echo /opt/compat >/etc/ld.so.conf.d/000_compat.conf && ldconfig`)
	said := g.postStart(0)
	require.Contains(t, said, "programs in the container get /opt/compat/libcuda.so.1 instead of the libcuda of driver "+newer+"; see ldconfig -p")
	require.Contains(t, said, "driver "+newer+" is installed")
	g.holds(newer)
}

// A removal that runs out of time must not leave the container without a driver.
func TestAnOldDriverThatCannotBeRemovedInTimeIsReplaced(t *testing.T) {
	n := newNode(t, older)
	g := n.start(lab.Spec{})
	g.postStart(0)
	n.configure("[install]\ntimeout = \"15s\"\n")
	g.sh(`rm /usr/bin/nvidia-uninstall; cat >/usr/bin/nvidia-uninstall <<'EOF'
#!/bin/sh
[ -e /root/hung ] || { touch /root/hung; exec sleep 1000; }
exec /usr/bin/nvidia-installer --uninstall "$@"
EOF
chmod 755 /usr/bin/nvidia-uninstall`)
	require.NoError(t, n.Module(newer))
	said := g.postStart(0)
	require.Contains(t, said, "the installation goes on and replaces what is left")
	g.holds(newer)
}
