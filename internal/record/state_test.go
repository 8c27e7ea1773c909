package record

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

func TestStateFolderIsRootsAlone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "lib", "state")
	dir, err := Below(state, "runs", "101")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(state, "runs", "101"), dir)
	for _, made := range []string{state, filepath.Dir(dir), dir} {
		info, err := os.Stat(made)
		require.NoError(t, err)
		require.EqualValues(t, 0o700, info.Mode().Perm(), made)
	}
}

func TestStateFolderThatOthersCouldChangeIsRefused(t *testing.T) {
	for name, prepare := range map[string]func(state string) error{
		"a link":             func(state string) error { return os.Symlink(t.TempDir(), state) },
		"a dangling link":    func(state string) error { return os.Symlink("nowhere", state) },
		"a file":             func(state string) error { return os.WriteFile(state, nil, 0o600) },
		"writable by all":    func(state string) error { return makeMode(state, 0o707) },
		"writable by groups": func(state string) error { return makeMode(state, 0o770) },
		"of another":         func(state string) error { return errors.Join(makeMode(state, 0o700), os.Chown(state, 1000, 1000)) },
		"below another's": func(state string) error {
			return errors.Join(os.Chown(filepath.Dir(state), 1000, 1000), makeMode(state, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			require.NoError(t, prepare(state))
			_, err := Below(state, "runs")
			require.Error(t, err)
			require.NoDirExists(t, filepath.Join(state, "runs"))
			require.NotEmpty(t, hint.Of(err))
		})
	}
}

func TestModeOfTheAdministratorsOwnStays(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	require.NoError(t, makeMode(state, 0o711))
	_, err := Below(state, "runs")
	require.NoError(t, err)
	info, err := os.Stat(state)
	require.NoError(t, err)
	require.EqualValues(t, 0o711, info.Mode().Perm())
}

func makeMode(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode) // past the umask
}
