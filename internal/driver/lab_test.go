package driver

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
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

// job is one of an unpacked run file with a library of size bytes.
func job(t *testing.T, size int64) Job {
	t.Helper()
	tree := t.TempDir()
	const manifest = "NVIDIA\n580.142\n\n\n\n\n./kernel/\n./kernel/precompiled/\n" +
		"libcuda.so.580.142 0755 CUDA_LIB NATIVE / MODULE:gpgpu\n"
	require.NoError(t, os.WriteFile(filepath.Join(tree, ".manifest"), []byte(manifest), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "libcuda.so.580.142"), nil, 0o755))
	require.NoError(t, os.Truncate(filepath.Join(tree, "libcuda.so.580.142"), size))
	return Job{Tree: tree, Deliver: "push", Report: runfile.Report{Header: runfile.Header{Version: "580.142", Arch: "x86_64"}}}
}

func TestWhatWouldFailIsSaidBeforeAnythingIsRemoved(t *testing.T) {
	c, _ := open(t)
	j := job(t, 1<<20)
	require.NoError(t, Ready(c, j, nil))
	j.Flags = []string{"--no-such-option"}
	require.ErrorContains(t, Ready(c, j, nil), "does not know the option --no-such-option")
}

// What is copied in needs room for itself and for the driver, at the same time.
func TestRoomIsForAllThatIsThereAtOnce(t *testing.T) {
	c, _ := open(t)
	const spare = 64 << 20
	free, err := c.Free("/var/lib")
	require.NoError(t, err)
	j := job(t, 0)
	half := (int64(free) - spare) / 2
	require.NoError(t, os.Truncate(filepath.Join(j.Tree, "libcuda.so.580.142"), half-1<<28))
	require.NoError(t, Ready(c, j, nil))
	require.NoError(t, os.Truncate(filepath.Join(j.Tree, "libcuda.so.580.142"), half+1<<28)) // once it would fit
	require.ErrorContains(t, Ready(c, j, nil), "are needed to copy the unpacked run file in and install it")
	require.NoError(t, os.Truncate(filepath.Join(j.Tree, "libcuda.so.580.142"), int64(free)))
	require.ErrorContains(t, Ready(c, j, nil), "are needed for driver 580.142")
}

// The room that the driver takes which is there counts as free, recorded or not.
func TestTheOldDriverMakesRoom(t *testing.T) {
	c, _ := open(t)
	require.NoError(t, c.WriteFile("/usr/bin/nvidia-smi", make([]byte, 1<<20), 0o755))
	in := &record.Installed{Files: []record.File{{Path: "/usr/bin/nvidia-smi", Size: 1 << 20}}}
	require.EqualValues(t, 1<<20, taken(c, "x86_64", in))
	in.Files[0].Size++
	require.Zero(t, taken(c, "x86_64", in), "a size that is not the file's is not trusted")

	const left = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.142" // by an installation that was killed
	require.NoError(t, c.WriteFile(left, make([]byte, 3<<20), 0o755))
	require.EqualValues(t, 3<<20, taken(c, "x86_64", nil))
	in.Files = []record.File{{Path: left, Size: 3 << 20}}
	require.EqualValues(t, 3<<20, taken(c, "x86_64", in), "not twice")
}

func TestLogOfAnEarlierRunIsNotShown(t *testing.T) {
	c, log := open(t)
	require.NoError(t, c.WriteFile(InstallerLog, []byte("ERROR: of yesterday\n"), 0o644))
	j := Job{Report: runfile.Report{Header: runfile.Header{Version: "580.142", Arch: "x86_64"}}, Timeout: time.Minute, Log: log}
	require.Error(t, runInstaller(t.Context(), c, j))
	require.Empty(t, LogTail(c, 6))
}
