package cuda

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// The real dnf and zypper are packages of Debian. A root of Debian stands for
// the system that has about the same version of the tool.
var (
	rpmBookworm = lab.Base{Name: "rpm", Suite: "bookworm", Add: []string{"dnf", "zypper", "rpm"}}
	rpmTrixie   = lab.Base{Name: "rpm", Suite: "trixie", Add: []string{"dnf", "zypper", "rpm"}}
	rpmForky    = lab.Base{Name: "dnf5", Suite: "forky", Add: []string{"dnf5", "rpm"}, Frozen: true}
)

var rpmSystems = []struct {
	name, folder, release, tool string
	base                        *lab.Base
}{
	{"Rocky9", "rhel9", "ID=\"rocky\"\nVERSION_ID=\"9.5\"\n", "dnf", &rpmBookworm},                  // dnf 4.14
	{"Alma10", "rhel10", "ID=\"almalinux\"\nVERSION_ID=\"10.0\"\n", "dnf", &rpmTrixie},              // dnf 4.23
	{"Fedora42", "fedora42", "ID=fedora\nVERSION_ID=42\n", "dnf", &rpmForky},                        // dnf5
	{"Leap15", "opensuse15", "ID=\"opensuse-leap\"\nVERSION_ID=\"15.6\"\n", "zypper", &rpmBookworm}, // zypper 1.14.42
	{"SLES15", "sles15", "ID=\"sles\"\nVERSION_ID=\"15.7\"\n", "zypper", &rpmTrixie},                // zypper 1.14.89
}

// rpmWorld is a folder of repositories for all systems, signed with key.
type rpmWorld struct {
	dir string
	key *cudatest.Key
}

func newRPMWorld(t *testing.T) *rpmWorld {
	labtest.Need(t)
	for _, name := range append([]string{"gpg"}, cudatest.Programs...) {
		labtest.Program(t, name)
	}
	w := &rpmWorld{t.TempDir(), newKey(t)}
	require.NoError(t, os.Chmod(w.dir, 0o755))
	w.publish(t, "a", w.key, append(toolkits(), cudatest.Package{Name: "basesystem", Version: "1"})...)
	w.publish(t, "better", w.key, cudatest.Package{Name: "better-tool", Version: "1", Obsoletes: "plain-tool"})
	w.publish(t, "third", w.key, cudatest.Package{Name: "nvidia-driver-cuda-libs", Version: "3.580"},
		cudatest.Package{Name: "slow", Version: "1", Postinst: "touch /run/at-work; while [ ! -e /run/go ]; do sleep 0.05; done"})
	// Signed with one key, with another one beside it.
	w.publish(t, "alien", newKey(t), toolkits()...)
	right, err := os.ReadFile(w.dir + "/a/all/x86_64/D42D0685.pub")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(w.dir+"/alien/all/x86_64/D42D0685.pub", right, 0o644))
	w.publish(t, "broken", w.key, toolkits()...)
	index, _ := filepath.Glob(w.dir + "/broken/all/x86_64/repodata/*-primary.xml*")
	require.NotEmpty(t, index)
	for _, name := range index {
		require.NoError(t, os.WriteFile(name, []byte("nonsense"), 0o644))
	}
	return w
}

func (w *rpmWorld) publish(t *testing.T, name string, key *cudatest.Key, packages ...cudatest.Package) {
	dir := filepath.Join(w.dir, name, "all/x86_64")
	require.NoError(t, cudatest.WriteRPM(t.Context(), dir, "all", key, packages))
	text, err := os.ReadFile(filepath.Join(dir, "cuda-all.repo"))
	require.NoError(t, err)
	for _, s := range rpmSystems {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cuda-"+s.folder+".repo"), text, 0o644))
		require.NoError(t, os.Symlink("all", filepath.Join(w.dir, name, s.folder)))
	}
}

// stand makes a container of a system.
func (w *rpmWorld) stand(t *testing.T, i int, spec lab.Spec) *rpmBench {
	s := rpmSystems[i]
	spec.VMID, spec.Privileged, spec.HostNet, spec.Base = 101, true, true, s.base
	b := &rpmBench{bench: newBareBench(t, spec), tool: s.tool}
	b.folder, b.key = s.folder, w.key
	// The server's folder is not the bench's own.
	require.NoError(t, os.Remove(b.dir))
	require.NoError(t, os.Symlink(w.dir, b.dir))
	b.want.RepoURL = b.repo("a")
	for name, text := range map[string]string{
		"/etc/os-release": s.release,
		"/etc/rpm/macros": "%_dbpath /var/lib/rpm\n", // Debian's rpm keeps it in the home folder
		// As Red Hat's kin have it; a comment, and no word of excludes.
		"/etc/dnf/dnf.conf": "# mine\n[main]\ngpgcheck=1\ninstallonly_limit=3\nclean_requirements_on_remove=True\nbest=True\nskip_if_unavailable=False\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(b.lab.Root+name), 0o755))
		_ = os.Remove(b.lab.Root + name)
		require.NoError(t, os.WriteFile(b.lab.Root+name, []byte(text), 0o644))
	}
	other := map[string]string{"dnf": "zypper", "zypper": "dnf"}[s.tool]
	b.in("sh", "-c", "rm -f /etc/dnf/libdnf5-plugins/local.conf /usr/bin/"+other+" /usr/bin/"+other+"-3; [ ! -e /usr/bin/dnf5 ] || ln -s dnf5 /usr/bin/dnf; mkdir -p /etc/yum.repos.d /etc/zypp/repos.d")
	// libzypp cannot read an empty database.
	base, err := os.ReadFile(b.dir + "/a/all/x86_64/basesystem-1-1.noarch.rpm")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(b.lab.Root+"/root/base.rpm", base, 0o644))
	b.in("rpm", "-i", "--nodeps", "--nosignature", "/root/base.rpm")
	return b
}

type rpmBench struct {
	*bench
	tool string
}

// byHand does what a user would: install, remove.
func (b *rpmBench) byHand(verb string, names ...string) (string, error) {
	if b.tool == "zypper" {
		return b.try(append([]string{"zypper", "--non-interactive", verb}, names...)...)
	}
	return b.try(append([]string{"dnf", verb, "-y"}, names...)...)
}

func (b *rpmBench) packages() []string { return strings.Fields(b.in("rpm", "-qa", "--qf", "%{NAME} ")) }

// repoFile is a user's own repository.
func (b *rpmBench) repoFile(name, url string) func() {
	file := b.lab.Root + map[string]string{"dnf": "/etc/yum.repos.d/", "zypper": "/etc/zypp/repos.d/"}[b.tool] + name + ".repo"
	require.NoError(b.t, os.WriteFile(file, []byte("["+name+"]\nname="+name+"\nenabled=1\nautorefresh=1\ngpgcheck=0\nrepo_gpgcheck=0\nbaseurl="+url+"\n"), 0o644))
	return func() { require.NoError(b.t, os.Remove(file)) }
}

func (b *rpmBench) state() map[string]string {
	all := map[string]string{"packages": b.in("sh", "-c", "rpm -qa | sort")}
	for _, dir := range []string{"etc", "usr/local", "var/lib/pve-nvidia-hook"} {
		_ = filepath.WalkDir(filepath.Join(b.lab.Root, dir), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == "ld.so.cache" {
				return nil
			}
			text, err := os.ReadFile(name)
			require.NoError(b.t, err)
			all[strings.TrimPrefix(name, b.lab.Root)] = fmt.Sprintf("%x", sha256.Sum256(text))
			return nil
		})
	}
	return all
}

func (b *rpmBench) same(was map[string]string) {
	b.t.Helper()
	requireSame(b.t, was, b.state())
}

func TestToolkitOnRealDnfAndZypper(t *testing.T) {
	w := newRPMWorld(t)
	for i, s := range rpmSystems {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			testRPM(t, w.stand(t, i, lab.Spec{}))
		})
	}
}

func testRPM(t *testing.T, b *rpmBench) {
	before := b.state()
	toolkit := func(release string, packages ...string) func(*Want) {
		return func(w *Want) { w.Toolkit, w.Packages = release, packages }
	}
	t.Run("AFreshContainerGetsToolkitAndNoDriver", b.with(func(t *testing.T) {
		require.NoError(t, b.install(toolkit("12.8", "nvidia-container-toolkit")))
		require.Equal(t, "12.8.93", b.had.Version)
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8, V12.8.93")
		require.ElementsMatch(t, []string{"cuda-toolkit-12-8", "nvidia-container-toolkit"}, b.had.Asked)
		for _, n := range b.packages() {
			require.False(t, cudapkg.IsDriver(n), n)
		}
	}))
	t.Run("ASecondRunChangesNothing", b.with(func(t *testing.T) {
		was, gets, had := b.state(), b.gets.Load(), b.had
		require.NoError(t, b.install(toolkit("12.8", "nvidia-container-toolkit")))
		b.same(was)
		require.Equal(t, gets, b.gets.Load())
		require.Equal(t, had, b.had)
	}))
	t.Run("NobodyCanInstallADriverPackageByHand", b.with(func(t *testing.T) {
		defer b.repoFile("third", b.repo("third"))()
		was := b.packages()
		for _, n := range []string{"cuda-12-8", "cuda-runtime-12-8", "cuda-drivers", "libcuda1", "needs-driver", "nvidia-driver-cuda-libs"} {
			out, err := b.byHand("install", n)
			require.Error(t, err, out)
		}
		require.Equal(t, was, b.packages())
	}))
	t.Run("ADriverPackageAsDependencyIsRefusedByName", b.with(func(t *testing.T) {
		was := b.packages()
		err := b.install(toolkit("12.8", "needs-driver"))
		require.ErrorContains(t, err, "driver package libcuda1")
		require.NotEmpty(t, hint.Of(err))
		require.Equal(t, was, b.packages())
	}))
	t.Run("APackageThatIsNotThereIsNamed", b.with(func(t *testing.T) {
		err := b.install(toolkit("12.8", "no-such-tool"))
		require.ErrorContains(t, err, "no-such-tool")
		require.Contains(t, hint.Of(err), "cuda.packages")
	}))
	t.Run("AnotherReleaseReplacesTheOld", b.with(func(t *testing.T) {
		require.NoError(t, b.install(toolkit("12.9")))
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.9")
		require.NotContains(t, strings.Join(b.packages(), " "), "12-8")
		require.NotContains(t, strings.Join(b.packages(), " "), "container")
	}))
	t.Run("ReducedToAPartThePartStays", b.with(func(t *testing.T) {
		require.NoError(t, b.install(toolkit("", "cuda-nvcc-12-9")))
		require.Contains(t, b.packages(), "cuda-nvcc-12-9")
		require.NotContains(t, b.packages(), "libnvjitlink-12-9")
		require.Equal(t, []string{"cuda-nvcc-12-9"}, b.had.Asked)
		if b.tool == "dnf" { // a user who tidies up
			b.in("dnf", "autoremove", "-y")
			require.Contains(t, b.packages(), "cuda-nvcc-12-9")
		}
		require.NoError(t, b.install(toolkit("12.8")))
		require.NotContains(t, b.packages(), "cuda-nvcc-12-9")
	}))
	t.Run("ACompilerThatIsGoneFromTheDiskComesBack", b.with(func(t *testing.T) {
		require.NoError(t, os.Remove(b.lab.Root+nvccPath("12.8")))
		require.NoError(t, b.install(toolkit("12.8")))
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8")
	}))
	t.Run("WhatWouldReplaceAPackageIsRefused", b.with(func(t *testing.T) {
		out, err := b.byHand("install", "plain-tool") // depends on libnvjitlink-12-8
		require.NoError(t, err, out)
		defer b.repoFile("better", b.repo("better"))()
		err = b.install(toolkit("12.8", "better-tool"))
		require.ErrorContains(t, err, "would remove plain-tool")
	}))
	t.Run("UninstallLeavesWhatIsNotOurs", b.with(func(t *testing.T) {
		// With a repository of the user's that fails.
		defer b.repoFile("third", "http://127.0.0.1:9/x/")()
		b.remove()
		require.Contains(t, b.packages(), "plain-tool")
		require.Contains(t, b.packages(), "libnvjitlink-12-8")
		require.NotContains(t, b.packages(), "cuda-nvcc-12-8")
		b.in("rpm", "-e", "plain-tool", "libnvjitlink-12-8")
	}))
	t.Run("UninstallLeavesTheContainerAsBefore", b.with(func(t *testing.T) { b.same(before) }))
	t.Run("ARepositoryOfTheUsersThatFailsIsNoReason", b.with(func(t *testing.T) {
		defer b.repoFile("third", "http://127.0.0.1:9/x/")()
		require.NoError(t, b.install(toolkit("12.8")))
		require.NoError(t, b.install(toolkit("12.9")))
		require.NotContains(t, b.packages(), "cuda-nvcc-12-8")
		b.remove()
	}))
	t.Run("AnUnknownKeyIsRefused", b.with(func(t *testing.T) {
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("alien") })
		require.ErrorContains(t, err, "is not signed with the key")
		require.Contains(t, hint.Of(err), "really NVIDIA's")
		require.NotContains(t, hint.Of(err), "network")
		require.NotContains(t, strings.Join(b.had.Added, " "), "cuda", "what did not come in counts as ours")
		b.remove()
		b.same(before)
	}))
	t.Run("ABrokenIndexIsTriedAgainAndNamed", b.with(func(t *testing.T) {
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("broken") })
		require.ErrorContains(t, err, "is broken")
		require.True(t, b.log.has("trying again"))
		b.remove()
		b.same(before)
	}))
	t.Run("NoServerIsGivenUpInTime", b.with(func(t *testing.T) {
		err := b.install(func(w *Want) {
			w.Toolkit, w.RepoURL, w.NetworkWait = "12.8", "http://127.0.0.1:9/"+b.folder+"/x86_64/", 200*time.Millisecond
		})
		require.ErrorContains(t, err, "given up")
		require.Contains(t, hint.Of(err), "network")
		b.remove()
		b.same(before)
	}))
	t.Run("ABusyDatabaseIsWaitedFor", b.with(func(t *testing.T) {
		release := b.busy()
		var waited atomic.Bool
		free := sync.OnceFunc(func() {
			time.Sleep(time.Second)
			waited.Store(true)
			release()
		})
		require.NoError(t, b.install(func(w *Want) {
			w.Toolkit = "12.8"
			w.Save = func(in Installed) error {
				if slices.Contains(in.Added, "cuda-toolkit-12-8") { // the installation is about to begin
					go free()
				}
				return nil
			}
		}))
		require.True(t, waited.Load())
		free()
		b.in("rpm", "-e", "slow")
		b.remove()
		b.same(before)
	}))
	t.Run("WhatTheUserKeepsOutStaysOut", b.with(func(t *testing.T) {
		defer b.repoFile("mine", b.repo("a"))()
		conf := b.lab.Root + dnfConf
		old, err := os.ReadFile(conf)
		require.NoError(t, err)
		mine := string(old) + "excludepkgs=plain-tool\n    nvidia-container-toolkit\n[other]\nenabled=0\nbaseurl=http://127.0.0.1:9/\n"
		require.NoError(t, os.WriteFile(conf, []byte(mine), 0o644))
		if b.tool == "zypper" {
			b.in("zypper", "--non-interactive", "addlock", "plain-tool")
		}
		require.False(t, Pinned(b.c))
		require.NoError(t, Pin(b.c))
		require.True(t, Pinned(b.c))
		if b.tool == "zypper" { // which writes the whole file anew
			b.in("zypper", "--non-interactive", "addlock", "nvidia-container-toolkit")
		}
		for _, n := range []string{"plain-tool", "nvidia-container-toolkit", "needs-driver"} {
			out, err := b.byHand("install", n)
			require.Error(t, err, out)
		}
		require.NoError(t, Unpin(b.c))
		require.Equal(t, mine, readIn(t, b.bench, dnfConf))
		if b.tool == "zypper" {
			require.Equal(t, 2, strings.Count(readIn(t, b.bench, zyppLock), "solvable_name"))
			b.in("zypper", "--non-interactive", "removelock", "plain-tool", "nvidia-container-toolkit")
			require.NoError(t, os.Remove(b.lab.Root+zyppLock))
		}
		out, err := b.byHand("install", "needs-driver") // without the pin it comes in
		require.NoError(t, err, out)
		b.in("rpm", "-e", "needs-driver", "libcuda1")
		require.NoError(t, os.WriteFile(conf, old, 0o644))
	}))
	t.Run("AFullDiskIsSeenBefore", b.with(func(t *testing.T) {
		c := b.c
		defer func() { b.full = nil }()
		b.full = roomy{c, 64 << 20}
		err := b.install(toolkit("12.8"))
		require.ErrorContains(t, err, "on the container's disk, there are")
		require.Zero(t, b.had.Release)
		b.full = nil
		b.remove()
		b.same(before)
	}))
}

// roomy is a container that says of its disk what it is told to.
type roomy struct {
	*lxc.Container
	free uint64
}

func (r roomy) Free(string) (uint64, error) { return r.free, nil }

// busy lets another rpm be at work in the container until the returned function is called.
func (b *rpmBench) busy() (release func()) {
	slow, err := os.ReadFile(b.dir + "/third/all/x86_64/slow-1-1.noarch.rpm")
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(b.lab.Root+"/root/slow.rpm", slow, 0o644))
	done := make(chan error, 1)
	go func() {
		_, err := b.try("rpm", "-i", "--nodeps", "--nosignature", "/root/slow.rpm")
		done <- err
	}()
	require.Eventually(b.t, func() bool { return b.exists("/run/at-work") }, 20*time.Second, 20*time.Millisecond)
	return sync.OnceFunc(func() {
		b.in("touch", "/run/go")
		require.NoError(b.t, <-done)
	})
}
