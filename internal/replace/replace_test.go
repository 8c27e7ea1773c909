package replace

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestTheFileIsNewOrOld(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	file, tmp := filepath.Join(dir, "file"), filepath.Join(dir, ".file.new")
	for _, text := range []string{"one", "two"} {
		require.NoError(t, File(file, tmp, []byte(text), 0o644))
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o644), info.Mode())
	}
	require.Equal(t, []string{"file"}, names(t, dir))
}

func TestWhatAKilledOneHasLeftGoes(t *testing.T) {
	for name, plant := range map[string]func(tmp, victim string) error{
		"half":         func(tmp, _ string) error { return os.WriteFile(tmp, []byte("half of somethi"), 0o400) },
		"link":         func(tmp, victim string) error { return os.Symlink(victim, tmp) },
		"hard link":    func(tmp, victim string) error { return os.Link(victim, tmp) },
		"FIFO":         func(tmp, _ string) error { return syscall.Mkfifo(tmp, 0o600) },
		"empty folder": func(tmp, _ string) error { return os.Mkdir(tmp, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
			require.NoError(t, os.WriteFile(victim, []byte("of the host"), 0o600))
			file, tmp := filepath.Join(dir, "file"), filepath.Join(dir, ".file.new")
			require.NoError(t, plant(tmp, victim))
			require.NoError(t, File(file, tmp, []byte("new"), 0o600))
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, "new", string(got))
			require.Equal(t, []string{"file"}, names(t, dir))
			got, err = os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "of the host", string(got))
		})
	}
}

func TestAnErrorLeavesTheOldFileAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.MkdirAll(filepath.Join(file, "in the way"), 0o700))
	require.Error(t, File(file, filepath.Join(dir, ".file.new"), []byte("new"), 0o600))
	require.Equal(t, []string{"file"}, names(t, dir))
}
