package snippet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// place writes the snippet with another path of the program in it.
func place(t *testing.T, program string) string {
	t.Helper()
	text := strings.Replace(string(snippet.Script), "/usr/bin/pve-nvidia-hook", program, 1)
	require.Contains(t, text, "program="+program+"\n")
	file := filepath.Join(t.TempDir(), snippet.Name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o755))
	return file
}

func TestGuestStartsWithoutTheProgram(t *testing.T) {
	out, err := exec.Command(place(t, "/nowhere/pve-nvidia-hook"), "101", "pre-start").CombinedOutput()
	require.NoError(t, err)
	require.Empty(t, string(out))
}

func TestArgumentsAndExitStatusPassThrough(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 7\n"), 0o755))
	cmd := exec.Command(place(t, program), "101", "post start")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
	require.Equal(t, "<101><post start>", string(out))
}

func TestChainedScriptRunsWithoutTheProgram(t *testing.T) {
	plain := place(t, "/nowhere/pve-nvidia-hook")
	file := filepath.Join(filepath.Dir(plain), snippet.Chaining("my script+1.sh"))
	require.NoError(t, os.Rename(plain, file))
	other := snippet.Chained(file)
	require.Equal(t, filepath.Join(filepath.Dir(file), "my script+1.sh"), other)
	require.Empty(t, snippet.Chained(plain))

	cmd := exec.Command(file, "101", "pre-start")
	require.Error(t, cmd.Run())
	require.Equal(t, 127, cmd.ProcessState.ExitCode(), "as without pve-nvidia-hook, a guest whose script is gone does not start")
	require.NoError(t, os.WriteFile(other, []byte("#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 7\n"), 0o755))
	cmd = exec.Command(file, "101", "pre-start")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
	require.Equal(t, "<101><pre-start>", string(out))
}

func TestProgramIsToldWhichFileCalledIt(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s %s' \"$"+snippet.Env+"\" \"$GOMAXPROCS\"\n"), 0o755))
	file := place(t, program)
	out, err := exec.Command(file, "101", "pre-start").Output()
	require.NoError(t, err)
	require.Equal(t, file+" 1", string(out))
}
