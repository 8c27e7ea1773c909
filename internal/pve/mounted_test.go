package pve

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAFolderOnAStorageThatIsNotMountedIsNotUsed(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, CheckMounted(root, "/mnt/pve/nas/cache"), "no node of Proxmox")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/pve"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "mnt/pve/nas"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/storage.cfg"), []byte("dir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\texport /x\n\tserver nas\n"), 0o640))
	for dir, want := range map[string]string{
		"/var/cache/pve-nvidia-hook": "",
		"/var/lib/vz/cache":          "",
		"/mnt/pve/nas2/cache":        "",
		"/mnt/pve/nas":               "storage nas is not mounted",
		"/mnt/pve/nas/cache":         "storage nas is not mounted",
	} {
		err := CheckMounted(root, dir)
		if want == "" {
			require.NoError(t, err, dir)
			continue
		}
		require.ErrorContains(t, err, want, dir)
	}
	if unix.Geteuid() != 0 {
		return
	}
	nas := filepath.Join(root, "mnt/pve/nas")
	require.NoError(t, unix.Mount("none", nas, "tmpfs", 0, ""))
	defer unix.Unmount(nas, unix.MNT_DETACH)
	require.NoError(t, CheckMounted(root, "/mnt/pve/nas/cache"))
}
