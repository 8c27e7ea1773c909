package pve

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const line = "lxc.mount.entry: /run/pve-nvidia-hook/driver usr/lib/pve-nvidia-hook/driver none bind,ro,create=dir,optional 0 0"

func TestTheEntryHasTheFormOfTheContract(t *testing.T) {
	require.Equal(t, line, ShareEntry("/run/pve-nvidia-hook/driver", "/run/pve-nvidia-hook/driver-folders", false))
	own := ShareEntry("/run/pve-nvidia-hook/driver", "/run/pve-nvidia-hook/driver-folders", true)
	require.Contains(t, own, " overlay ro,nosuid,nodev,lowerdir=/run/pve-nvidia-hook/driver:/run/pve-nvidia-hook/driver-folders,create=dir,optional 0 0")
	require.True(t, isShareEntry(own))
}

func TestOnlyTheEntryOfTheLiveSectionChanges(t *testing.T) {
	const pending = "\n[pve:pending]\nmemory: 4096\nlxc.mount.entry: /a usr/lib/pve-nvidia-hook/driver none bind 0 0\n\n[before]\n" + line + "\nhostname: web\n"
	for name, c := range map[string]struct{ was, with, without string }{
		"no sections":           {"#a note\nhostname: web\n", "#a note\nhostname: web\n" + line + "\n", ""},
		"no newline at the end": {"hostname: web", "hostname: web\n" + line + "\n", "hostname: web\n"},
		"empty":                 {"", line + "\n", ""},
		"sections stay":         {"hostname: web\n" + pending, "hostname: web\n" + line + "\n" + pending, ""},
		"odd lines stay": {"hostname:   web\r\nnonsense\nlxc.mount.entry: /dev/x dev/x none bind 0 0\n" + pending,
			"hostname:   web\r\nnonsense\nlxc.mount.entry: /dev/x dev/x none bind 0 0\n" + line + "\n" + pending, ""},
	} {
		with := string(withEntry([]byte(c.was), line))
		require.Equal(t, c.with, with, name)
		require.Equal(t, with, string(withEntry([]byte(with), line)), name)
		if c.without == "" {
			c.without = c.was
		}
		require.Equal(t, c.without, string(withEntry([]byte(with), "")), name)
	}
	other := "lxc.mount.entry = /run/other/driver /usr/lib/pve-nvidia-hook/driver none bind,ro 0 0\n"
	require.Equal(t, line+"\n", string(withEntry([]byte(other), line)), "another run folder is put right")
	require.Equal(t, line+"\n", string(withEntry([]byte(line+"\n"+other), line)), "one is enough")
}

// entryNode is the root of a node with one container.
func entryNode(t *testing.T, conf string) (root string, g Guest, file string) {
	t.Helper()
	root = t.TempDir()
	file = filepath.Join(root, "etc/pve/nodes/pve1/lxc/101.conf")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.Symlink("nodes/pve1", filepath.Join(root, "etc/pve/local")))
	require.NoError(t, os.Symlink("nodes/pve1/lxc", filepath.Join(root, "etc/pve/lxc")))
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o640))
	g, found, err := Find(root, 101)
	require.NoError(t, err)
	require.True(t, found)
	return root, g, file
}

func TestTheEntryIsPutInAndTakenOut(t *testing.T) {
	root, g, file := entryNode(t, "hostname: web\n\n[snap]\nhostname: web\n")
	require.False(t, Shares(root, 101))
	changed, err := SetShareEntry(t.Context(), root, g, line, true)
	require.NoError(t, err)
	require.True(t, changed)
	require.False(t, Shares(root, 101), "--dry-run changes nothing")
	for range 2 {
		_, err = SetShareEntry(t.Context(), root, g, line, false)
		require.NoError(t, err)
		require.True(t, Shares(root, 101))
	}
	changed, err = SetShareEntry(t.Context(), root, g, line, false)
	require.NoError(t, err)
	require.False(t, changed)
	_, err = SetShareEntry(t.Context(), root, g, "", false)
	require.NoError(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "hostname: web\n\n[snap]\nhostname: web\n", string(text))
	left, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays")
}

func TestTheEntryWaitsForProxmoxsLockAndNotForEver(t *testing.T) {
	root, g, file := entryNode(t, "hostname: web\n")
	locks := filepath.Join(root, "run/lock/lxc")
	require.NoError(t, os.MkdirAll(locks, 0o755))
	f, err := os.Create(filepath.Join(locks, "pve-config-101.lock"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = SetShareEntry(ctx, root, g, line, false)
	require.Error(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(text), "lxc.mount.entry")
	f.Close()
	_, err = SetShareEntry(t.Context(), root, g, line, false)
	require.NoError(t, err)
}

func TestALockedContainerIsNotChanged(t *testing.T) {
	root, g, _ := entryNode(t, "hostname: web\nlock: backup\n")
	_, err := SetShareEntry(t.Context(), root, g, line, false)
	require.ErrorContains(t, err, "locked (backup)")
	require.Contains(t, hint.Of(err), "pct unlock")
	// A lock in a snapshot's section is none.
	root, g, _ = entryNode(t, "hostname: web\n[s1]\nlock: backup\n")
	_, err = SetShareEntry(t.Context(), root, g, line, false)
	require.NoError(t, err)
}

func TestAFileThatChangedMeanwhileIsNotWrittenOver(t *testing.T) {
	_, _, file := entryNode(t, "hostname: new\n")
	err := exchangeFile(file, []byte("hostname: old\n"), []byte("hostname: old\n"+line+"\n"))
	require.ErrorContains(t, err, "changed meanwhile")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "hostname: new\n", string(text))
	left, _ := filepath.Glob(file + "*")
	require.Len(t, left, 1)
}

func FuzzEntry(f *testing.F) {
	f.Add("hostname: web\n\n[snap]\nx: y\n")
	f.Add(line)
	f.Fuzz(func(t *testing.T, text string) {
		with := string(withEntry([]byte(text), line))
		c, err := ParseConf(strings.NewReader(with), false)
		if err != nil {
			return
		}
		if !c.Shared() {
			t.Fatalf("%q has no entry", with)
		}
		if without := string(withEntry([]byte(with), "")); strings.Contains(strings.Split(without, "[")[0], line) {
			t.Fatalf("%q still has it", without)
		}
	})
}
