package cuda

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

const nvidiaList = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/"

func TestToolkitInARealContainer(t *testing.T) {
	b := newBench(t, "bookworm")
	b.publish("a", nvidiaList, b.key, toolkits()...)
	before := b.state()

	t.Run("AFreshContainerGetsToolkitAndNoDriver", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.Packages = "12.8", []string{"nvidia-container-toolkit"} }))
		require.Equal(t, "12.8", b.had.Release)
		require.Equal(t, "12.8.93", b.had.Version)
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8, V12.8.93")
		require.Equal(t, []string{"cuda-keyring", "cuda-toolkit-12-8", "nvidia-container-toolkit"}, b.had.Asked)
		for _, n := range strings.Fields(b.packages()) {
			require.False(t, cudapkg.IsDriver(n), n)
		}
		require.Equal(t, pinText(), readIn(t, b, pinFile))
		require.Equal(t, "# Written by pve-nvidia-hook.\ndeb [signed-by="+keyringFile+"] "+b.repo("a")+" /\n", readIn(t, b, ownList))
		require.False(t, b.exists("/etc/apt/sources.list.d/cuda-debian12-x86_64.list"), "the list with NVIDIA's own URL stands beside the mirror's")
		require.False(t, b.exists(staged))
		archives, _ := filepath.Glob(b.lab.Root + "/var/cache/apt/archives/*.deb")
		require.Empty(t, archives, "fetched packages fill the container's disk")
	}))
	t.Run("ASecondRunChangesNothing", b.with(func(t *testing.T) {
		was, gets := b.state(), b.gets.Load()
		had := b.had
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.Packages = "12.8", []string{"nvidia-container-toolkit"} }))
		b.same(was)
		require.Equal(t, gets, b.gets.Load())
		require.Equal(t, had, b.had)
	}))
	t.Run("NobodyCanInstallADriverPackageByHand", b.with(func(t *testing.T) {
		for _, n := range []string{"cuda-12-8", "cuda-runtime-12-8", "cuda-drivers", "nvidia-open-570", "libcuda1", "needs-driver"} {
			out, err := b.try("apt-get", "install", "-y", n)
			require.Error(t, err, out)
		}
	}))
	t.Run("AnotherReleaseReplacesTheOld", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.9" }))
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.9")
		require.NotContains(t, b.packages(), "12-8")
		require.NotContains(t, b.packages(), "container")
		require.False(t, b.exists("/usr/local/cuda-12.8"))
		require.NotContains(t, b.had.Added, "cuda-toolkit-12-8")
	}))
	t.Run("ReducedToAPartThePartStays", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Packages = []string{"cuda-nvcc-12-9"} }))
		require.NotContains(t, b.packages(), "libnvjitlink-12-9")
		require.Equal(t, []string{"cuda-keyring", "cuda-nvcc-12-9"}, b.had.Asked)
		b.in("apt-get", "autoremove", "-y") // a user who tidies up
		require.Contains(t, b.packages(), "cuda-nvcc-12-9")
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
		require.NotContains(t, b.packages(), "cuda-nvcc-12-9")
	}))
	t.Run("ACompilerThatIsGoneFromTheDiskComesBack", b.with(func(t *testing.T) {
		require.NoError(t, os.Remove(b.lab.Root+nvccPath("12.8")))
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
		require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8")
	}))
	t.Run("WhatTheUserInstallsAfterAFailureIsTheirs", b.with(func(t *testing.T) {
		// The server has lost a package: nothing is installed.
		b.publish("lost", nvidiaList, b.key, toolkits()...)
		lost := filepath.Join(b.dir, "lost/debian12/x86_64/nvidia-container-toolkit_1.17.8-1_all.deb")
		deb, err := os.ReadFile(lost)
		require.NoError(t, err)
		require.NoError(t, os.Remove(lost))
		with := func(packages ...string) func(*Want) {
			return func(w *Want) { w.Toolkit, w.RepoURL, w.Packages = "12.8", b.repo("lost"), packages }
		}
		require.Error(t, b.install(with("nvidia-container-toolkit")))
		require.NotContains(t, b.had.Added, "nvidia-container-toolkit")
		require.NoError(t, os.WriteFile(lost, deb, 0o644))
		b.in("apt-get", "install", "-y", "nvidia-container-toolkit")
		require.NoError(t, b.install(with()))
		require.Contains(t, b.packages(), "nvidia-container-toolkit")
		b.in("apt-get", "purge", "-y", "nvidia-container-toolkit", "libnvidia-container1")
		b.in("apt-get", "clean")
	}))
	t.Run("AutoTakesTheNewestThatTheDriverSupports", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = cudapkg.Auto }))
		require.Equal(t, "13.0", b.had.Release) // the repository has 13.3 as well
		ok, why := Current(b.c, b.had, Want{Toolkit: cudapkg.Auto, RepoURL: b.want.RepoURL, Driver: "610.43.02"})
		require.False(t, ok)
		require.Contains(t, why, "610.43.02")
	}))
	t.Run("AReleaseThatTheRepositoryLacksIsRefusedWithWhatItHas", b.with(func(t *testing.T) {
		err := b.install(func(w *Want) { w.Toolkit = "12.6" })
		require.ErrorContains(t, err, "13.3, 13.0, 12.9, 12.8")
	}))
	t.Run("ADriverPackageAsDependencyIsRefusedByName", b.with(func(t *testing.T) {
		was := b.packages()
		err := b.install(func(w *Want) { w.Toolkit, w.Packages = "13.0", []string{"needs-driver"} })
		require.ErrorContains(t, err, "driver package libcuda1")
		require.NotEmpty(t, hint.Of(err))
		// A preference of the user's that goes before ours: the plan is inspected.
		user := b.lab.Root + "/etc/apt/preferences.d/00-mine"
		require.NoError(t, os.WriteFile(user, []byte("Package: libcuda1\nPin: release *\nPin-Priority: 990\n"), 0o644))
		err = b.install(func(w *Want) { w.Toolkit, w.Packages = "13.0", []string{"needs-driver"} })
		require.NoError(t, os.Remove(user))
		require.ErrorContains(t, err, "driver package libcuda1")
		require.Equal(t, was, b.packages())
	}))
	t.Run("UninstallLeavesTheContainerAsBefore", b.with(func(t *testing.T) {
		b.remove()
		b.same(before)
	}))
	t.Run("UninstallLeavesWhatIsNotOurs", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
		b.in("apt-get", "install", "-y", "plain-tool") // depends on libnvjitlink-12-8
		require.NoError(t, os.WriteFile(b.lab.Root+profileFile, []byte("# mine now\n"), 0o644))
		b.remove()
		require.Contains(t, b.packages(), "plain-tool")
		require.Contains(t, b.packages(), "libnvjitlink-12-8")
		require.NotContains(t, b.packages(), "cuda-nvcc")
		require.Equal(t, "# mine now\n", readIn(t, b, profileFile))
		require.True(t, b.log.has("was changed by somebody else"))
		b.in("apt-get", "purge", "-y", "plain-tool", "libnvjitlink-12-8")
		b.in("apt-get", "clean")
		require.NoError(t, os.Remove(b.lab.Root+profileFile))
		b.same(before)
	}))
	t.Run("NVIDIAsOwnListIsUsedWhereItNamesTheRepository", b.with(func(t *testing.T) {
		b.publish("own", b.repo("own"), b.key, toolkits()...)
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("own") }))
		require.True(t, b.exists("/etc/apt/sources.list.d/cuda-debian12-x86_64.list"))
		require.False(t, b.exists(ownList))
		// And over to a mirror and back: one entry each time.
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("own") }))
		out := b.in("apt-get", "update")
		require.NotContains(t, out, "multiple times")
		require.NotContains(t, out, b.repo("a"))
		b.remove()
		b.same(before)
	}))
	t.Run("AListSetUpByHandIsFoundAndNamed", b.with(func(t *testing.T) {
		hand := b.lab.Root + "/etc/apt/sources.list.d/hand.list"
		require.NoError(t, os.WriteFile(hand, []byte("deb [signed-by=/etc/apt/keyrings/mine.gpg] "+b.repo("a")+" /\n"), 0o644))
		err := b.install(func(w *Want) { w.Toolkit = "12.8" })
		require.ErrorContains(t, err, "/etc/apt/sources.list.d/hand.list")
		require.NoError(t, os.Remove(hand))
		require.NoError(t, Unpin(b.c))
		b.same(before)
	}))
	t.Run("AnUnknownKeyIsRefused", b.with(func(t *testing.T) {
		b.publish("alien", nvidiaList, newKey(t), toolkits()...)
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("alien") })
		require.ErrorContains(t, err, "not signed with the key")
		require.NotContains(t, b.packages(), "cuda-nvcc")
		b.remove()
		b.same(before)
	}))
	t.Run("ABrokenIndexIsTriedAgainAndNamed", b.with(func(t *testing.T) {
		b.publish("broken", nvidiaList, b.key, toolkits()...)
		for _, n := range []string{"Packages", "Packages.gz"} {
			require.NoError(t, os.WriteFile(filepath.Join(b.dir, "broken/debian12/x86_64", n), []byte("nonsense"), 0o644))
		}
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("broken") })
		require.ErrorContains(t, err, "is broken")
		require.True(t, b.log.has("trying again"))
		b.remove()
		b.same(before)
	}))
	t.Run("ALoginPageInPlaceOfTheKeyringIsNamed", b.with(func(t *testing.T) {
		b.publish("junk", nvidiaList, b.key)
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, "junk/debian12/x86_64", keyringDeb), []byte("<html>log in</html>"), 0o644))
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("junk") })
		require.ErrorContains(t, err, "is not a Debian package")
		b.remove()
		b.same(before)
	}))
	t.Run("AServerThatComesUpLateIsWaitedFor", b.with(func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := listener.Addr().String()
		listener.Close()
		up := make(chan struct{})
		b.log.hook = func(line string) {
			if strings.Contains(line, "waiting for the host's network or the repository") {
				late, err := net.Listen("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				server := &http.Server{Handler: http.FileServer(http.Dir(b.dir))}
				t.Cleanup(func() { server.Close() })
				go server.Serve(late)
				close(up)
			}
		}
		defer func() { b.log.hook = nil }()
		url := "http://" + address + "/a/debian12/x86_64/"
		require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", url }))
		<-up
		b.remove()
		b.same(before)
	}))
	t.Run("NoServerAtAllIsGivenUpInTime", b.with(func(t *testing.T) {
		began := time.Now()
		err := b.install(func(w *Want) {
			w.Toolkit, w.RepoURL, w.NetworkWait = "12.8", "http://127.0.0.1:9/debian12/x86_64/", time.Second
		})
		require.ErrorContains(t, err, "given up after 1s")
		require.Less(t, time.Since(began), 10*time.Second)
		b.remove()
		b.same(before)
	}))
	t.Run("AnotherAptIsWaitedForAndNamed", b.with(func(t *testing.T) {
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
		slow := cudatest.Package{Name: "slow", Version: "1", Postinst: "touch /run/at-work; while [ ! -e /run/go ]; do sleep 0.05; done"}
		require.NoError(t, os.WriteFile(b.lab.Root+"/root/slow.deb", slow.Deb(), 0o644))
		done := make(chan error, 1)
		go func() {
			_, err := b.try("apt-get", "install", "-y", "/root/slow.deb")
			done <- err
		}()
		require.Eventually(t, func() bool { return b.exists("/run/at-work") }, 20*time.Second, 20*time.Millisecond)
		err := b.install(func(w *Want) { w.Toolkit, w.LockWait = "12.9", 200*time.Millisecond })
		require.ErrorContains(t, err, "given up after 200ms")
		require.ErrorContains(t, err, "lock")
		b.log.hook = func(line string) {
			if strings.Contains(line, "waiting for another package tool") {
				_ = os.WriteFile(b.lab.Root+"/run/go", nil, 0o644)
			}
		}
		defer func() { b.log.hook = nil }()
		require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.9" }))
		require.NoError(t, <-done)
		b.in("sh", "-c", "apt-get purge -y slow && rm /root/slow.deb /run/go /run/at-work")
		b.remove()
		b.same(before)
	}))
	for script, set := range map[string]func(*cudatest.Package, string){
		"Preinst":  func(p *cudatest.Package, text string) { p.Preinst = text },
		"Postinst": func(p *cudatest.Package, text string) { p.Postinst = text },
	} {
		t.Run("ARunCutOffIn"+script+"IsHealedByTheNext", b.with(func(t *testing.T) {
			packages := toolkits()
			for i := range packages {
				if packages[i].Name == "cuda-nvcc-12-8" {
					set(&packages[i], "touch /run/at-work; while [ ! -e /run/go ]; do sleep 0.05; done")
				}
			}
			b.publish("slow", nvidiaList, b.key, packages...)
			ctx, cancel := context.WithCancel(t.Context())
			b.ctx = ctx
			go func() {
				for ctx.Err() == nil && !b.exists("/run/at-work") {
					time.Sleep(20 * time.Millisecond)
				}
				cancel()
			}()
			err := b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("slow") })
			b.ctx = t.Context()
			require.ErrorIs(t, err, context.Canceled)
			require.Contains(t, b.had.Added, "cuda-nvcc-12-8")
			require.Contains(t, b.saved[len(b.saved)-1].Added, "cuda-nvcc-12-8", "a killed run leaves no note")
			require.NotContains(t, b.in("dpkg-query", "-W", "-f", "${Package}=${db:Status-Status} "), "cuda-nvcc-12-8=installed")
			b.in("touch", "/run/go")
			require.NoError(t, b.install(func(w *Want) { w.Toolkit, w.RepoURL = "12.8", b.repo("slow") }))
			require.True(t, b.log.has("interrupted"))
			require.Empty(t, b.in("dpkg", "--audit"))
			b.in("rm", "/run/go", "/run/at-work")
			b.remove()
			b.same(before)
		}))
	}
	t.Run("ADeadlineEndsWhatItStarted", b.with(func(t *testing.T) {
		packages := toolkits()
		for i := range packages {
			if packages[i].Name == "cuda-nvcc-12-8" {
				packages[i].Postinst = "[ -e /run/go ] || sleep 1234"
			}
		}
		b.publish("hang", nvidiaList, b.key, packages...)
		err := b.install(func(w *Want) { w.Toolkit, w.RepoURL, w.Timeout = "12.8", b.repo("hang"), 3*time.Second })
		require.ErrorContains(t, err, "not done within 3s")
		found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range found {
			line, _ := os.ReadFile(name)
			require.NotContains(t, string(line), "sleep\x001234")
		}
		// Uninstalling heals as well, also when dpkg was ended while it unpacked.
		b.in("dpkg", "--purge", "cuda-toolkit-12-8", "libnvjitlink-12-8", "cuda-toolkit-config-common")
		b.in("sed", "-i", "/^Package: cuda-nvcc-12-8$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/", "/var/lib/dpkg/status")
		b.in("touch", "/run/go")
		b.remove()
		b.in("rm", "/run/go")
		b.same(before)
	}))
}

// Most containers on Proxmox VE are unprivileged: their root is not the host's.
func TestToolkitInAnUnprivilegedContainer(t *testing.T) {
	b := newBenchOn(t, lab.Spec{VMID: 101, Base: &lab.Minimal})
	b.publish("a", nvidiaList, b.key, toolkits()...)
	before := b.state()
	// The container's network is down at first, as where DHCP comes after post-start.
	up := sync.OnceFunc(b.networkUp)
	b.log.hook = func(line string) {
		if strings.Contains(line, "unreachable") && strings.Contains(line, "trying again") {
			up()
		}
	}
	require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
	require.True(t, b.log.has("unreachable"))
	require.Contains(t, b.in("bash", "-lc", "nvcc --version"), "release 12.8, V12.8.93")
	require.Equal(t, "root", strings.TrimSpace(b.in("stat", "-c", "%U", pinFile)))
	was := b.state()
	require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
	b.same(was)
	b.remove()
	b.same(before)
}

// with runs a part of a test against the bench as its own test.
func (b *bench) with(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		whole := b.t
		b.t, b.log.t, b.ctx = t, t, t.Context()
		defer func() { b.t, b.log.t = whole, whole }()
		f(t)
	}
}

func readIn(t *testing.T, b *bench, name string) string {
	text, err := os.ReadFile(b.lab.Root + name)
	require.NoError(t, err)
	return string(text)
}
