package trust

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// base is a folder below one of root's alone, unlike t.TempDir, whose parents are
// the test runner's matter.
func base(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	dir := filepath.Join(t.TempDir(), "base")
	require.NoError(t, os.Mkdir(dir, 0o755))
	return dir
}

func TestFileThatOthersCouldHaveWrittenIsNotRead(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir, file string) error
		says  string
	}{
		"right":                 {func(string, string) error { return nil }, ""},
		"file of another":       {func(_, file string) error { return os.Chown(file, 1000, 1000) }, "belongs to uid 1000"},
		"file for all to write": {func(_, file string) error { return os.Chmod(file, 0o666) }, "mode 0666"},
		"folder of another":     {func(dir, _ string) error { return os.Chown(dir, 1000, 1000) }, "belongs to uid 1000"},
		"folder for the group":  {func(dir, _ string) error { return os.Chmod(dir, 0o770) }, "mode 0770"},
		"folder above it":       {func(dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, "anybody could replace"},
		"folder above of another": {func(dir, _ string) error { return os.Chown(filepath.Dir(dir), 1000, 1000) },
			"belongs to uid 1000"},
		"link": {func(dir, file string) error {
			if err := os.Rename(file, file+".moved"); err != nil {
				return err
			}
			return os.Symlink(file+".moved", file)
		}, "too many levels of symbolic links"},
		"FIFO": {func(_, file string) error {
			if err := os.Remove(file); err != nil {
				return err
			}
			return syscall.Mkfifo(file, 0o600)
		}, "not a regular file"},
		"too large": {func(_, file string) error { return os.WriteFile(file, make([]byte, 101), 0o600) }, "larger than 100 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(base(t), "dir")
			require.NoError(t, MakeDir(dir, 0o700))
			file := filepath.Join(dir, "file")
			require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
			require.NoError(t, c.spoil(dir, file))
			data, err := ReadFile(file, 100)
			if c.says == "" {
				require.NoError(t, err)
				require.Equal(t, "text", string(data))
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := ReadFile(filepath.Join(base(t), "none"), 100)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFolderBehindALinkIsLookedAtWhereItLies(t *testing.T) {
	dir := base(t)
	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(open, link))
	require.NoError(t, Dir(link))
	require.NoError(t, os.Chmod(open, 0o777))
	err := Dir(link)
	require.ErrorContains(t, err, "mode 0777")
	require.Equal(t, "chmod go-w "+open, hint.Of(err))
	require.NoError(t, os.Chmod(open, 0o755))
	require.NoError(t, os.Lchown(link, 1000, 1000))
	require.ErrorContains(t, Dir(link), "belongs to uid 1000")
}

// A link to a link: who may exchange the second one leads root where he likes.
func TestALinkOfAnotherOnTheWayIsRefused(t *testing.T) {
	top := base(t)
	at := func(name string) string { return filepath.Join(top, name) }
	require.NoError(t, os.MkdirAll(at("real/state"), 0o755))
	require.NoError(t, os.Mkdir(at("home"), 0o755))
	require.NoError(t, os.Symlink("home/second", at("first")))
	require.NoError(t, os.Symlink(at("real"), at("home/second")))
	require.NoError(t, Dir(at("first/state")), "all is root's")
	require.NoError(t, os.Symlink("../first/state", at("home/third")))
	require.NoError(t, Dir(at("home/third")))
	require.NoError(t, os.Lchown(at("home/second"), 1000, 1000))
	require.ErrorContains(t, Dir(at("first/state")), "home/second belongs to uid 1000")
	require.ErrorContains(t, Dir(at("home/third")), "home/second belongs to uid 1000")
	require.NoError(t, os.Lchown(at("home/second"), 0, 0))
	require.NoError(t, os.Chown(at("home"), 1000, 1000))
	require.ErrorContains(t, Dir(at("first/state")), "home belongs to uid 1000")
	require.NoError(t, os.Chown(at("home"), 0, 0))

	require.NoError(t, os.Symlink("round", at("round")))
	require.Error(t, Dir(at("round")))
}
