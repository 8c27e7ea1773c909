package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
)

func TestSetupThatWaitsForAnAnswerEndsWhenItIsInterrupted(t *testing.T) {
	silent, typing := io.Pipe()
	defer typing.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	s := guide{in: bufio.NewReader(silent), out: &out}
	_, err := s.ask(ctx, "Which?", "all", checkGPUs)
	require.EqualError(t, err, "setup: interrupted")
	require.Equal(t, "Which? [all]: \n", out.String())
}

// A running container tells what it has, by its own package tool's files.
func TestSetupSuggestsContainersWithDriverPackagesAndSaysHowTheyGo(t *testing.T) {
	l := labtest.Open(t)
	program, err := rig.Build(t.Context(), t.TempDir())
	require.NoError(t, err)
	r, err := rig.New(t.TempDir(), program, l.Path, t.TempDir())
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.Module("580.142"))
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(r.Path(name)), 0o755))
		require.NoError(t, os.WriteFile(r.Path(name), []byte(text), 0o644))
	}
	write("host/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A10\nDevice Minor: \t 0\n")
	write("host/etc/pve/nodes/pve1/lxc/101.conf", "hostname: jellyfin\n")
	write("host/etc/pve/nodes/pve1/lxc/102.conf", "hostname: pihole\n")
	require.NoError(t, os.Symlink("nodes/pve1", r.Path("host/etc/pve/local")))
	packaged := labtest.StartIn(t, l, lab.Spec{VMID: 101})
	labtest.StartIn(t, l, lab.Spec{VMID: 102})
	_, err = packaged.Attach(t.Context(), "sh", "-c", `printf 'Package: libcuda1\nStatus: install ok installed\nVersion: 535.216.01-1\n\n' >>/var/lib/dpkg/status`)
	require.NoError(t, err)

	said, err := r.Run(t.Context(), "setup", "--dry-run")
	require.NoError(t, err)
	require.Zero(t, said.Code, said.Text)
	require.Contains(t, said.Text, "  101 (jellyfin): no GPU; distribution packages of the driver are installed: libcuda1\n  102 (pihole): no GPU\n")
	require.Contains(t, said.Text, "container 101: note: distribution packages of the driver are installed: libcuda1: they stay until apply --replace-packages\n")
	require.Contains(t, said.Text, "container 101 (jellyfin): would set hookscript")
	require.NotContains(t, said.Text, "container 102")
	said, err = r.Run(t.Context(), "setup", "--yes")
	require.NoError(t, err)
	require.Contains(t, said.Text, "no container was chosen", "nobody was asked, and the hook would refuse its work")
}

// Until its next start a container keeps the devices that disable has taken.
func TestSetupDoesNotSuggestWhatWasDisabled(t *testing.T) {
	root := pveNode(t, "")
	t.Setenv("FAKEPCT_RUNNING", "101")
	for _, command := range []string{"enable", "disable"} {
		_, err := typed(t, command, "101")
		require.NoError(t, err)
	}
	require.Contains(t, conf(t, root, "101"), "[pve:pending]\ndelete: dev0,")
	var out bytes.Buffer
	s := guide{out: &out, yes: true}
	guests := here(root)
	require.NoError(t, s.choose(t.Context(), guests, nil))
	require.Empty(t, s.chosen)
	s.showContainers(guests, nil)
	require.Contains(t, out.String(), "  101 (ct101): no GPU\n")
}
