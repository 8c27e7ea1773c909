package hook

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

func TestAWorkerIsBelievedWhatItTells(t *testing.T) {
	told := func(r Result) json.RawMessage {
		text, err := json.Marshal(Trace{VMID: 101, Result: r})
		require.NoError(t, err)
		return text
	}
	for name, c := range map[string]struct {
		report worker.Report
		err    error
		result Result // "": it is not believed
		says   bool   // there is an error besides
	}{
		"all is well":                  {report: worker.Report{Told: told(Installed)}, result: Installed},
		"it has failed":                {report: worker.Report{Status: 1, Told: told(Failed)}, result: Failed},
		"it was refused":               {report: worker.Report{Status: 1, Told: told(Refused)}, result: Refused},
		"done, but it does not end":    {report: worker.Report{Told: told(Installed)}, err: worker.ErrLeftBehind, result: Installed, says: true},
		"it could not begin":           {report: worker.Report{Status: 1}, result: Failed},
		"no report":                    {err: worker.ErrUnconcluded, says: true},
		"nothing told":                 {says: true},
		"no trace":                     {report: worker.Report{Told: json.RawMessage(`"x"`)}, says: true},
		"its status is another's":      {report: worker.Report{Status: 1, Told: told(Installed)}, says: true},
		"its status is another's, too": {report: worker.Report{Told: told(Failed)}, says: true},
	} {
		t.Run(name, func(t *testing.T) {
			trace, err := Aside(func(context.Context, worker.Job) (worker.Report, error) { return c.report, c.err }, worker.Job{})(t.Context())
			require.Equal(t, c.result, trace.Result)
			require.Equal(t, c.says, err != nil)
			require.Equal(t, c.result == "", errors.Is(err, worker.ErrUnconcluded))
		})
	}
}

// Whoever cannot know what became of a run does not say that nothing was changed,
// nor that what was there before is there still.
func TestARunWithoutAReportIsConcludedWithWhatIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		says string
		left bool
	}{
		"killed":    {err: worker.Unconcluded("process 7 was killed"), says: "it is not known how far it came"},
		"not begun": {err: errors.Join(worker.ErrNotBegun, worker.ErrUnconcluded), says: "nothing was changed, driver 550.163.01 stays", left: true},
	} {
		t.Run(name, func(t *testing.T) {
			conf, state := configOf(t)
			require.NoError(t, os.MkdirAll(state, 0o700))
			var said strings.Builder
			log, err := say.New(&said, "text", "info")
			require.NoError(t, err)
			o := Options{Config: conf, Log: log, Aside: func(context.Context) (Trace, error) { return Trace{}, c.err }}
			before := (&run{Options: o, trace: Trace{VMID: 101}}).instead()
			before.trace.Result, before.trace.Left = Installed, &Has{Driver: "550.163.01"}
			before.remember(nil)

			got, err := (&run{Options: o, began: time.Now(), trace: Trace{VMID: 101, Phase: PhasePostStart}}).goAside(t.Context())
			got.Say(log, err)
			require.ErrorIs(t, err, worker.ErrUnconcluded)
			require.Equal(t, Failed, got.Result)
			require.Equal(t, c.left, got.Left != nil)
			require.Contains(t, said.String(), c.says)
		})
	}
}

func configOf(t *testing.T) (*config.Config, string) {
	t.Helper()
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	file := filepath.Join(dir, "config.toml")
	text := "[paths]\nstate = \"" + state + "\"\nrun = \"" + dir + "/run\"\nmetrics = \"\"\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c, err := config.Load(file, config.Options{HostRoot: dir, Named: true})
	require.NoError(t, err)
	return c, state
}
