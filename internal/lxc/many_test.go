package lxc_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

func TestLstatAllTellsWhatLstatAndReadlinkTell(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		outside := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(outside, []byte("of the host"), 0o644))
		sh(t, at, `mkdir -p /many/a /many/b; cd /many
			echo one >a/f; echo three >b/f; ln -s f a/l; ln -s /many/b a/dir
			ln -s "$(printf '%0300d' 0)" a/long; ln -s "$(printf '%0256d' 0)" a/256
			ln -s / root; ln -s ../../../../../../.. up; ln -s /proc/self/root magic; mkfifo b/fifo`)
		names := []string{"/many/a/f", "/many/a/l", "/many/a/gone", "/many/a/long", "/many/a/256", "/many/a/dir", "/many/a/dir/f", "/many/gone/f", "/many/b/f", "/many/b/fifo",
			"/many/a/f", "/many/a/f/below", "/many/root/many/b/f", "/many/up/many/a/f", "/many/magic/etc", "/many/magic", "/bin", "/proc/1/exe",
			"/many/up" + outside, "/many/root" + outside}
		for i, e := range c.LstatAll(names) {
			info, err := c.Lstat(names[i])
			require.Equal(t, err == nil, e.Err == nil, "%s: %v, %v", names[i], err, e.Err)
			if err != nil {
				require.ErrorIs(t, e.Err, err.(*fs.PathError).Err, names[i])
				continue
			}
			require.Equal(t, info, e.Info, names[i])
			target, _ := c.Readlink(names[i])
			require.Equal(t, target, e.Target, names[i])
		}
		for _, e := range c.LstatAll([]string{"", "/", "many/a/f", "/many/../many/a/f", "/many/a/", "/many/a/.."}) {
			require.ErrorIs(t, e.Err, syscall.EINVAL)
		}
		require.Empty(t, c.LstatAll(nil))
	})
}

func TestLstatAllSeesNoHostsFileThatTheContainerMayNot(t *testing.T) {
	host := t.TempDir()
	require.NoError(t, errors.Join(os.Chmod(host, 0o755), os.Chmod(filepath.Dir(host), 0o755)))
	hidden := filepath.Join(host, "hidden")
	require.NoError(t, errors.Join(os.Mkdir(hidden, 0o700), os.WriteFile(filepath.Join(hidden, "f"), nil, 0o600)))
	_, c := open(t, lab.Spec{VMID: 101, ExtraConfig: []string{"lxc.mount.entry = " + host + " mnt none bind 0 0"}})
	all := c.LstatAll([]string{"/mnt/hidden/f", "/mnt/hidden", "/etc/passwd"})
	require.ErrorIs(t, all[0].Err, fs.ErrPermission)
	require.NoError(t, all[1].Err)
	require.NoError(t, all[2].Err)
	require.NoError(t, os.WriteFile(filepath.Join(hidden, "g"), nil, 0o600), "this process has its own identity again")
}
