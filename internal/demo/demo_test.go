package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/sample/fakerun"
)

// home gives the demo a folder of its own for all that it makes, beside which
// only the base roots are shared with other labs.
func home(t *testing.T) string {
	t.Helper()
	labtest.Need(t)
	_, err := lab.Build(t.Context(), lab.Systemd, true)
	require.NoError(t, err)
	shared := lab.Dir()
	dir, err := os.MkdirTemp(filepath.Dir(shared), "pve-nvidia-hook-demo-test-")
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
		{"", "abc", `"abc" is no driver version such as 580.142 or 580.76.05`},
		{"", "580", `"580" is no driver version such as 580.142 or 580.76.05`},
	} {
		_, err := findSource(t.TempDir(), c.file, c.version)
		require.ErrorContains(t, err, c.why)
	}

	src, err := findSource(t.TempDir(), ours, "580.142")
	require.NoError(t, err)
	require.Equal(t, "580.142", src.version)
	require.FileExists(t, filepath.Join(src.samples, filepath.Base(ours)))
	require.FileExists(t, filepath.Join(src.samples, filepath.Base(ours)+".sha256sum"))
}
