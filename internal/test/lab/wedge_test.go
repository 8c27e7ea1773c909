package lab

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// In a container something that is not fusectl may be mounted where FUSE's control
// files should be. The test runs itself where a tmpfs is.
func TestFUSEControlFilesAreKnownByTheirType(t *testing.T) {
	const dir = "/sys/fs/fuse/connections"
	switch os.Getenv("LAB_TEST_FUSE") {
	case "may mount":
		require.NoError(t, unix.Mount("x", dir, "tmpfs", 0, ""))
		require.NoError(t, showConnections())
		require.True(t, isType(dir, fusectl))
		require.NoError(t, showConnections())
		return
	case "may not":
		require.NoError(t, unix.Mount("x", dir, "tmpfs", 0, ""))
		err := showConnections()
		require.ErrorContains(t, err, dir+" is not of type fusectl")
		require.Contains(t, hint.Of(err), "mount -t fusectl")
		require.Error(t, (&Container{VMID: 101, Root: t.TempDir()}).Wedge(t.Context(), "/srv"), "what cannot be ended is not begun")
		return
	}
	if os.Geteuid() != 0 || !isDir(dir) {
		t.Skip("needs root and FUSE")
	}
	for what, attr := range map[string]*syscall.SysProcAttr{
		"may mount": {Unshareflags: unix.CLONE_NEWNS},
		"may not": {Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}}},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env, cmd.SysProcAttr = append(os.Environ(), "LAB_TEST_FUSE="+what), attr
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", what, out)
	}
}
