package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCleanRemovesWhatIsKeptUnlessItIsInUse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	home := filepath.Join(t.TempDir(), "lab")
	t.Setenv(EnvDir, home)
	require.NoError(t, Clean(t.Context()), "nothing is kept yet")
	hold := func(file string) *os.File {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		lock, err := lockFile(file, unix.LOCK_EX|unix.LOCK_NB)
		require.NoError(t, err)
		return lock
	}
	plain := filepath.Join(home, "base/bookworm-minimal/plain/etc")
	require.NoError(t, os.MkdirAll(plain, 0o755))

	living := hold(filepath.Join(home, "labs/1/owner"))
	require.ErrorContains(t, Clean(t.Context()), "labs/1 is in use")
	require.DirExists(t, plain)
	living.Close()

	building := hold(filepath.Join(home, "base/bookworm-minimal/lock"))
	require.ErrorContains(t, Clean(t.Context()), "bookworm-minimal is being built")
	require.DirExists(t, plain)
	building.Close()

	require.NoError(t, Clean(t.Context()))
	require.NoDirExists(t, home)
}

func TestCleanLeavesBaseRootsOfAnotherHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	home := filepath.Join(dir, "lab")
	t.Setenv(EnvDir, home)
	kept := filepath.Join(dir, "base/bookworm-minimal/plain")
	require.NoError(t, os.MkdirAll(kept, 0o755))
	require.NoError(t, os.MkdirAll(home, 0o755))
	require.NoError(t, os.Symlink(filepath.Join(dir, "base"), filepath.Join(home, "base")))
	require.NoError(t, Clean(t.Context()))
	require.DirExists(t, kept)
	require.NoDirExists(t, home)
}
