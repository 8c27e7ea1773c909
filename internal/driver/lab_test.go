package driver

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func open(t *testing.T) (*lxc.Container, say.Log) {
	t.Helper()
	guest := labtest.Start(t, lab.Spec{VMID: 101})
	t.Cleanup(func() { require.NoError(t, guest.Close()) })
	c, err := lxc.Open(t.Context(), guest.LXCPath, guest.VMID)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	log, err := say.New(io.Discard, "text", "error")
	require.NoError(t, err)
	return c, log
}

// A run that was killed before the first file was copied leaves the installer's
// log and no uninstaller; one that was killed in between leaves links as well.
func TestUninstallLeavesNoTraceOfAHalfDoneInstall(t *testing.T) {
	c, log := open(t)
	const dir = "/usr/lib/x86_64-linux-gnu/"
	result, err := c.Run(t.Context(), lxc.Cmd{Timeout: time.Minute, Args: []string{"sh", "-ec", `
		mkdir /var/lib/nvidia; echo "1.0-580142 (580.142)" >/var/lib/nvidia/log; : >/var/lib/nvidia/dirs
		cd ` + dir + `; : >libcuda.so.580.142; ln -s libcuda.so.580.142 libcuda.so.1; ln -s libnvidia-ml.so.580.142 libnvidia-ml.so.1`}})
	require.NoError(t, err)
	require.Zero(t, result.Code, string(result.Stderr))
	require.Equal(t, Found{CUDA: "580.142", NVML: "580.142", Log: "580.142"}, Look(c, "x86_64"))

	require.NoError(t, Uninstall(t.Context(), c, "x86_64", nil, "550.163.01", time.Minute, log))
	require.EqualValues(t, "580.142", Look(c, "x86_64").Log, "the next installer cleans up by this log")

	require.NoError(t, Uninstall(t.Context(), c, "x86_64", nil, "", time.Minute, log))
	require.False(t, Look(c, "x86_64").Any(), "%+v", Look(c, "x86_64"))
	_, err = c.Lstat("/var/lib/nvidia")
	require.Error(t, err)
}

func TestWhatWouldFailIsSaidBeforeAnythingIsRemoved(t *testing.T) {
	c, _ := open(t)
	j := Job{Report: runfile.Report{Header: runfile.Header{Version: "580.142", Arch: "x86_64"}}, Deliver: "push"}
	require.NoError(t, Ready(c, j, nil))
	j.Flags = []string{"--no-such-option"}
	require.ErrorContains(t, Ready(c, j, nil), "does not know the option --no-such-option")

	// The room that the recorded driver takes counts as free.
	require.NoError(t, c.WriteFile("/usr/bin/nvidia-smi", make([]byte, 1<<20), 0o755))
	j.Flags = nil
	free, err := c.Free("/var/lib")
	require.NoError(t, err)
	j.Report.Size = int64(free) + 1<<50
	require.ErrorContains(t, Ready(c, j, nil), "are needed to copy the run file in")
	in := &record.Installed{Files: []record.File{{Path: "/usr/bin/nvidia-smi", Size: 1 << 20}}}
	require.EqualValues(t, 1<<20, taken(c, in))
	in.Files[0].Size++
	require.Zero(t, taken(c, in), "a size that is not the file's is not believed")

	j.Report.Size = 0
	require.NoError(t, c.Remove("/usr/bin/md5sum"))
	require.ErrorContains(t, Ready(c, j, nil), "the run file needs md5sum")
}

func TestLogOfAnEarlierRunIsNotShown(t *testing.T) {
	c, log := open(t)
	require.NoError(t, c.WriteFile(InstallerLog, []byte("ERROR: of yesterday\n"), 0o644))
	j := Job{Report: runfile.Report{Header: runfile.Header{Version: "580.142", Arch: "x86_64"}}, Timeout: time.Minute, Log: log}
	require.Error(t, runInstaller(t.Context(), c, j, []string{"/nowhere/nvidia-installer"}))
	require.Empty(t, LogTail(c, 6))
}
