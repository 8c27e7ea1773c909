package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// home gives the demo a folder of its own for all that it makes, beside which
// only the base roots are shared with other labs.
func home(t *testing.T) string {
	t.Helper()
	labtest.Need(t)
	_, err := lab.Build(t.Context(), lab.Systemd, true)
	require.NoError(t, err)
	shared := lab.Dir()
	dir, err := os.MkdirTemp("", "demo-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) // the root of an unprivileged container passes through
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(shared, "base"), filepath.Join(dir, "base")))
	t.Setenv(lab.EnvDir, dir)
	t.Setenv("TMPDIR", filepath.Join(dir, "tmp"))
	t.Cleanup(func() {
		require.NoError(t, lab.Sweep(context.Background()))
		require.NoError(t, os.RemoveAll(dir))
	})
	return dir
}

// left lists what there is of the demo: files, mounts, and processes in and
// outside of its container.
func left(t *testing.T, home string) (found []string) {
	t.Helper()
	for _, dir := range []string{"labs", "tmp"} {
		files, err := filepath.Glob(filepath.Join(home, dir, "*"))
		require.NoError(t, err)
		found = append(found, files...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, home) {
			found = append(found, "mount "+line)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range processes { // one that ends meanwhile has no files
		command, _ := os.ReadFile(p + "/cmdline")
		environ, _ := os.ReadFile(p + "/environ")
		mounts, _ := os.ReadFile(p + "/mountinfo")
		inside := false
		for line := range strings.Lines(string(mounts)) {
			fields := strings.Fields(line)
			inside = inside || len(fields) > 4 && fields[4] == "/" && strings.Contains(line, home)
		}
		if inside || bytes.Contains(command, []byte(home)) || bytes.Contains(environ, []byte(home)) {
			found = append(found, p+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

func TestDemoLeavesNothingWhetherItEndsOrIsInterrupted(t *testing.T) {
	program := filepath.Join(t.TempDir(), "demo")
	said, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(said))
	home := home(t)

	said, err = exec.CommandContext(t.Context(), program).CombinedOutput()
	require.NoError(t, err, string(said))
	require.Contains(t, string(said), "ollama.service found: no driver; restarted by the hook: libcuda.so.580.142\n")
	require.Regexp(t, `done: installed in [0-9.]+ s, skipped in [0-9.]+ s`, string(said))
	require.Empty(t, left(t, home))

	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	appears := func(pattern string) string {
		var files []string
		require.Eventually(t, func() bool {
			files, _ = filepath.Glob(filepath.Join(home, "labs/*/lxc", strconv.Itoa(vmid), "rootfs", pattern))
			return len(files) > 0
		}, 2*time.Minute, 10*time.Millisecond, pattern)
		return files[0]
	}
	etc := appears("etc")
	require.NoError(t, os.WriteFile(filepath.Join(etc, "sample-nvidia-installer"), []byte("hang\n"), 0o644))
	appears("var/lib/pve-nvidia-hook/stage")
	require.Greater(t, len(left(t, home)), 5, "the demo is at work")
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)) // as Ctrl-C does
	<-ended
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), out.String())
	require.Contains(t, out.String(), "interrupted; everything that it made is removed")
	require.NotContains(t, out.String(), "is installed")
	require.Empty(t, left(t, home), out.String())
}

func TestLaterDemoRemovesWhatAKilledOneLeft(t *testing.T) {
	program := filepath.Join(t.TempDir(), "demo")
	said, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(said))
	home := home(t)
	killed := exec.CommandContext(t.Context(), program)
	killed.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, killed.Start())
	require.Eventually(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(home, "labs/*/lxc", strconv.Itoa(vmid), "rootfs/var/lib/pve-nvidia-hook"))
		return len(files) > 0
	}, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, syscall.Kill(-killed.Process.Pid, syscall.SIGKILL))
	require.Error(t, killed.Wait())
	require.NotEmpty(t, left(t, home))

	arch, err := host.Arch()
	require.NoError(t, err)
	ours, err := fakerun.Write(t.TempDir(), fakerun.Spec{Version: "580.76.05", Arch: arch})
	require.NoError(t, err)
	said, err = exec.CommandContext(t.Context(), program, "-runfile", ours).CombinedOutput()
	require.NoError(t, err, string(said))
	require.Contains(t, string(said), `(no GPU with driver 580.76.05 on this machine: the demo sets verify = "files", so nvidia-smi is not asked)`)
	require.Contains(t, string(said), "nvidia-smi in the container: it is there, but finds no GPU")
	require.Empty(t, left(t, home), string(said))
}

func TestDemoThatFailsSaysSoOnceAndWhatIsGone(t *testing.T) {
	program := filepath.Join(t.TempDir(), "demo")
	said, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(said))
	home := home(t)
	nothing := filepath.Join(t.TempDir(), "program") // in place of the hook
	require.NoError(t, os.WriteFile(nothing, []byte("#!/bin/sh\necho 'hint: pve-nvidia-hook cache add FILE' >&2\nexit 1\n"), 0o755))
	said, err = exec.CommandContext(t.Context(), program, "-program", nothing).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "  hint: make demo RUNFILE=FILE\n")
	require.Contains(t, string(said), "demo: error: the hook has failed, it says why above\n")
	require.Contains(t, string(said), "demo: everything that it made is removed but the base root (make clean-lab removes it)\n")
	require.NotContains(t, string(said), "exit status")
	require.Empty(t, left(t, home), string(said))
}

// The way by hand that the hook names must be one that the demo knows to translate.
func TestWayByHandFitsTheDemo(t *testing.T) {
	c := cache.Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	_, err := c.Get(t.Context(), cache.Want{Version: "580.76.05", Arch: "x86_64"})
	require.Error(t, err)
	require.Equal(t, "download it elsewhere, with its .sha256sum, and: make demo RUNFILE=FILE", here(hint.Of(err)))
}

func TestWhatIsLackingIsSaidBeforeAnythingIsBuilt(t *testing.T) {
	ready := func(uid, program string) string {
		bin := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(bin, "id"), []byte("#!/bin/sh\necho "+uid+"\n"), 0o755))
		cmd := exec.CommandContext(t.Context(), "packaging/ready", "demo", program)
		cmd.Dir = "../../.."
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
		said, _ := cmd.CombinedOutput()
		return string(said)
	}
	require.Equal(t, "demo: error: containers need root\ndemo: hint: run it as root\n", ready("1000", "sh"))
	require.Contains(t, ready("0", "no-such-go"), "demo: hint: it needs Go 1.26: https://go.dev/dl")
	require.Empty(t, ready("0", "sh"))
}

func TestHelpNamesTargetsThatAreThere(t *testing.T) {
	maker, err := exec.LookPath("make")
	if err != nil {
		t.Skip("there is no make")
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), maker, args...)
		cmd.Dir = "../../.."
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, string(said))
		return string(said)
	}
	help := run("--no-print-directory", "help")
	named := regexp.MustCompile(`(?m)^make ([a-z-]+) +\S`).FindAllStringSubmatch(help, -1)
	require.Greater(t, len(named), 8, help)
	for _, m := range named {
		run("-n", m[1])
	}
	require.Contains(t, help, "need root")
	require.Equal(t, run("-n", "all"), run("-n"), "the first target stays what it is")
}

func TestWrongFileOrVersionIsRefusedBeforeAnythingIsMade(t *testing.T) {
	arch, err := host.Arch()
	require.NoError(t, err)
	other := map[string]string{"x86_64": "aarch64", "aarch64": "x86_64"}[arch]
	dir := t.TempDir()
	ours, err := fakerun.Write(dir, fakerun.Spec{Version: "580.142", Arch: arch, NoDecompressor: true})
	require.NoError(t, err)
	foreign, err := fakerun.Write(dir, fakerun.Spec{Version: "580.142", Arch: other, NoDecompressor: true})
	require.NoError(t, err)
	bad := filepath.Join(dir, "NVIDIA-Linux-x86_64-580.142-bad.run")
	require.NoError(t, os.WriteFile(bad, []byte("<html>"), 0o644))
	for _, c := range []struct{ file, version, why string }{
		{filepath.Join(dir, "none.run"), "", "none.run: no such file or directory"},
		{bad, "", "read run file header: "},
		{foreign, "", "the file is for " + other + ", wanted " + arch},
		{ours, "570.1", "the file is driver version 580.142, wanted 570.1"},
		{"", "abc", `"abc" is not a driver version such as 580.142 or 580.76.05`},
		{"", "580", `"580" is not a driver version such as 580.142 or 580.76.05`},
	} {
		_, err := findSource(t.TempDir(), c.file, c.version)
		require.ErrorContains(t, err, c.why)
		if c.version == "570.1" {
			require.Equal(t, "leave VERSION out, or name VERSION=580.142", hint.Of(err))
		}
	}

	src, err := findSource(t.TempDir(), ours, "580.142")
	require.NoError(t, err)
	require.Equal(t, "580.142", src.version)
	require.FileExists(t, filepath.Join(src.samples, filepath.Base(ours)))
	require.FileExists(t, filepath.Join(src.samples, filepath.Base(ours)+".sha256sum"))
}
