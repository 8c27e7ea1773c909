package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/doctor"
)

// examine runs doctor on a machine that is given by a folder.
func examine(t *testing.T, root string, words ...string) (string, error) {
	t.Helper()
	config := filepath.Join(root, "config.toml")
	if _, err := os.Stat(config); err != nil {
		require.NoError(t, os.WriteFile(config, []byte("[cache]\ndir = \""+root+"/cache\"\n[paths]\nstate = \""+root+"/state\"\nrun = \""+root+"/run\"\nlxc = \""+root+"/lxc\"\n"), 0o644))
	}
	t.Setenv(hook.EnvConfig, config)
	t.Setenv(hook.EnvHostRoot, root)
	var out bytes.Buffer
	c := Root()
	c.SetOut(&out)
	c.SetArgs(append([]string{"doctor"}, words...))
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

func TestDoctorWorksWhereThereIsNothingToLookAt(t *testing.T) {
	root := t.TempDir()
	said, err := examine(t, root)
	require.NoError(t, err)
	require.Contains(t, said, "no Proxmox VE node")
	require.NotContains(t, said, "\x1b", "no colour in a pipe")
	said, err = examine(t, root, "101", "--verbose")
	require.NoError(t, err)
	require.Contains(t, said, "\ncontainer 101\n")
	require.Contains(t, said, "  ok       configuration: ")
}

func TestDoctorFailsOnProblemsOnly(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "proc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc/modules"), []byte("nouveau 1 0 - Live 0x0\n"), 0o644))
	said, err := examine(t, root, "--json")
	require.ErrorIs(t, err, errSaid)
	var found []doctor.Finding
	require.NoError(t, json.Unmarshal([]byte(said), &found))
	levels := map[string]doctor.Level{}
	for _, f := range found {
		levels[f.Check] = f.Level
		require.Zero(t, f.VMID)
	}
	require.Equal(t, doctor.Problem, levels["nouveau"])
	require.Equal(t, doctor.Unknown, levels["proxmox"])
}

func TestDoctorGoesOnWithAConfigurationOfMistakes(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "config.toml"), []byte("[driver]\nversoin = \"1\"\n"), 0o644))
	said, err := examine(t, root)
	require.ErrorIs(t, err, errSaid)
	require.Contains(t, said, "config.toml:2")
	require.Contains(t, said, "kernel-module")
}

func TestDoctorTakesVMIDsOnly(t *testing.T) {
	var wrong usage
	_, err := examine(t, t.TempDir(), "web")
	require.ErrorAs(t, err, &wrong)
}
