package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

func sampleRows(now time.Time) []statusRow {
	ran := func(ago time.Duration, r hook.Result) *lastRun {
		return &lastRun{At: now.Add(-ago), Phase: hook.PhasePostStart, Result: r, Seconds: 1}
	}
	return []statusRow{
		{VMID: 101, Name: "web", Running: true, Wanted: "580.142", Installed: "580.142", Toolkit: "12.8", OK: true, LastRun: ran(20*time.Second, hook.Skipped)},
		{VMID: 102, Name: "a-name-that-somebody-made-rather-long", Running: true, Wanted: "580.142", Installed: "550.163.01", LastRun: ran(5*time.Hour, hook.Failed),
			Reason: "driver 550.163.01 is installed, 580.142 is wanted; the last run failed: 214 MB are free on /usr, 700 MB are needed for driver 580.142 and its firmware"},
		{VMID: 103, Wanted: "580.142", Installed: "580.142", Shared: true, OK: true, LastRun: ran(72*time.Hour, hook.Installed)},
		{VMID: 1000104, Name: "fresh", Wanted: "580.142", OK: true, Reason: "the next start installs 580.142"},
		{VMID: 1000105, Name: "äöü", Running: true, Wanted: "580.142", Installed: "580.142", OK: true, LastRun: ran(2*time.Minute, hook.Background)},
	}
}

func TestStatusTableFitsTheTerminal(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	for name, width := range map[string]int{"pipe": 0, "80": 80, "160": 160, "40": 40} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, printStatus(&out, sampleRows(now), now, width, false))
			for l := range strings.Lines(out.String()) {
				require.True(t, width == 0 || columns(strings.TrimSuffix(l, "\n")) <= width, l)
			}
			file := filepath.Join("testdata", "table-"+name+".golden")
			if os.Getenv("UPDATE") == "1" {
				require.NoError(t, os.WriteFile(file, out.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), out.String())
		})
	}
}

func TestNamesAreCutNoMoreThanTheTerminalNeeds(t *testing.T) {
	now := time.Now()
	rows := []statusRow{{VMID: 102, Name: "jellyfin", Running: true, Wanted: "550.163.01", Installed: "580.142",
		LastRun: &lastRun{At: now, Result: hook.Installed}}}
	var whole, less bytes.Buffer
	width := len("! 102   jellyfin  yes      550.163.01  580.142    -        now       installed")
	require.NoError(t, printStatus(&whole, rows, now, width, false))
	require.Contains(t, whole.String(), "jellyfin  yes")
	require.NoError(t, printStatus(&less, rows, now, width-1, false))
	require.Contains(t, less.String(), "jell...  yes")
}

func TestOnlyProblemsAreColoured(t *testing.T) {
	var out bytes.Buffer
	now := time.Now()
	require.NoError(t, printStatus(&out, sampleRows(now), now, 160, true))
	lines := strings.Split(out.String(), "\n")
	for i, l := range lines {
		require.Equal(t, i == 2, strings.Contains(l, "\x1b["), l)
	}
	require.True(t, strings.HasPrefix(lines[2], "\x1b[1;31m! 102"), lines[2])
	require.True(t, strings.HasSuffix(lines[2], "...; doctor 102 tells more\x1b[0m"), lines[2])
}

func TestEveryCommandIsExplained(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.Name() == "version" {
			return // there is nothing to explain
		}
		require.NotEmpty(t, c.Long, c.CommandPath())
		require.True(t, c.HasExample() || c.HasSubCommands() || !c.HasLocalFlags(), "no example: %s", c.CommandPath())
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			require.Less(t, len(line), 160, line)
		}
	}
	visit(Root())
}

func TestAnUninstallThatFindsNothingLeavesNothingInPlace(t *testing.T) {
	require.Equal(t, "removed", inWord(hook.PhaseUninstall, hook.Skipped, true))
	require.Equal(t, "in place", inWord(hook.PhasePostStart, hook.Skipped, true))
}

func TestAFailureThatIsOverIsExplained(t *testing.T) {
	known := &containers{names: map[int]string{101: "web"}, standing: map[int]pve.Standing{101: pve.Follows}}
	s := state{vmid: 101}
	s.Settings.Wanted, s.Running, s.Last = true, true, &hook.Trace{Result: hook.Failed, Reason: "no room"}
	ok, why := judge(s, known)
	require.True(t, ok)
	require.Equal(t, "all is in place now; the last run that is kept failed: no room", why)

	// A failure of an earlier driver says nothing of the one that is wanted now.
	s.Running, s.Wanted, s.Has.Driver, s.Last.Plan.Wanted = false, "590.48.01", "550.163.01", "580.142"
	ok, why = judge(s, known)
	require.True(t, ok)
	require.Equal(t, "the next start replaces 550.163.01 by 590.48.01", why)
	s.Last.Plan.Wanted = "590.48.01"
	ok, why = judge(s, known)
	require.False(t, ok)
	require.Equal(t, "the last run failed: no room", why)
}
