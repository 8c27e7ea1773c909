package pve

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// saying returns a program that prints text and fails as pct does.
func saying(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "text"), []byte(text), 0o644))
	file := filepath.Join(dir, "pct")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\ncat "+dir+"/text >&2\nexit 255\n"), 0o755))
	return file
}

func TestPctSpeaksEnglishWhateverTheTerminalDoes(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	file := filepath.Join(t.TempDir(), "pct")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\necho LC_ALL=$LC_ALL >&2\nexit 255\n"), 0o755))
	require.EqualError(t, runPct(context.Background(), file, []string{"set", "102"}), "pct set 102: LC_ALL=C")
}

func TestRefusalsOfPctAreExplained(t *testing.T) {
	for _, c := range []struct{ said, err, hint string }{
		{"please run as root\n", "please run as root", "run it as root"},
		{"403 Permission check failed (changing the hookscript is only allowed for root@pam)\n", "403 Permission check failed (changing the hookscript is only allowed for root@pam)", "root@pam"},
		{"Configuration file 'nodes/pve1/lxc/102.conf' does not exist\n", "Configuration file 'nodes/pve1/lxc/102.conf' does not exist", "migrated meanwhile"},
		{"trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-102.lock' - got timeout\n", "can't lock file '/run/lock/lxc/pve-config-102.lock' - got timeout", "another task holds"},
		{"400 Parameter verification failed.\nhookscript: invalid format - unable to parse volume ID 'x'\n\npct set <vmid> [OPTIONS]\n", "hookscript: invalid format - unable to parse volume ID 'x'", ""},
		{"Unknown option: dev0\n400 unable to parse option\npct set <vmid> [OPTIONS]\n", "Unknown option: dev0", "Proxmox VE 8.1"},
		{"CT is locked (snapshot)\n", "CT is locked (snapshot)", "pct unlock"},
		{"400 Parameter verification failed.\ndev0: unable to hotplug dev0: open_tree() failed\n", "dev0: unable to hotplug dev0: open_tree() failed", "stop the container first"},
		{"cluster not ready - no quorum?\n", "cluster not ready - no quorum?", "pvecm status"},
		{"script 'local:snippets/pve-nvidia-hook' is not executable\n", "script 'local:snippets/pve-nvidia-hook' is not executable", "chmod 755"},
		{"script 'nas:snippets/backup.sh' does not exist\n", "script 'nas:snippets/backup.sh' does not exist", "put the file back"},
		{"", "exit status 255", ""},
	} {
		err := runPct(context.Background(), saying(t, c.said), []string{"set", "102", "--x", "y"})
		require.EqualError(t, err, "pct set 102: "+c.err)
		if c.hint == "" {
			require.Empty(t, hint.Of(err))
		}
		require.Contains(t, hint.Of(err), c.hint)
	}
}

func TestLongTalkOfPctIsCut(t *testing.T) {
	err := runPct(context.Background(), saying(t, strings.Repeat(strings.Repeat("x", 5000)+"\n", 500)), []string{"set", "102"})
	require.Error(t, err)
	require.Less(t, len(err.Error()), 3000)
}

func TestHangingPctIsEndedWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pct")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\nsleep 300 &\necho $! >"+dir+"/pid.tmp\nmv "+dir+"/pid.tmp "+dir+"/pid\nwait\n"), 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- runPct(ctx, file, []string{"set", "101"}) }()
	var child int
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(dir + "/pid")
		if err != nil {
			return false
		}
		child, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Eventually(t, func() bool {
		if syscall.Kill(child, 0) != nil {
			return true
		}
		stat, _ := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat") // a zombie that nobody has reaped yet
		return strings.Contains(string(stat), ") Z ")
	}, 10*time.Second, time.Millisecond)
}
