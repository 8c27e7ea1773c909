package hook

import (
	"encoding/json"
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
	text := func(status int, told any) string {
		text, err := json.Marshal(worker.Report{Status: status, Told: told, Done: true})
		require.NoError(t, err)
		return string(text)
	}
	well, failed := report{Init: 7}, report{Failure: &failure{Text: "no"}}
	for name, c := range map[string]struct {
		report   string
		believed bool
	}{
		"all is well":               {text(0, well), true},
		"it has failed":             {text(1, failed), true},
		"nothing told":              {text(0, nil), false},
		"null told":                 {`{"Status":0,"Told":null,"Done":true}`, false},
		"nothing told of a failure": {text(1, nil), false},
		"no report":                 {text(0, "x"), false},
		"another report":            {text(0, map[string]int{"vmid": 101}), false},
		"more than a report":        {`{"Status":0,"Told":{"Init":7},"Done":true,"More":1}`, false},
		"half a report":             {text(0, well)[:20], false},
		"a status that is not its":  {text(1, well), false},
		"nor this one":              {text(0, failed), false},
	} {
		t.Run(name, func(t *testing.T) {
			var told *report
			said, err := worker.ReadReport(strings.NewReader(c.report), &told)
			require.Equal(t, c.believed, err == nil && told.fits(said.Status))
		})
	}
}

// Whoever cannot know what became of a run does not say that nothing was changed,
// nor that what was there before is there still.
func TestARunWithoutAReportIsConcludedWithWhatIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		unknown bool
		says    string
		left    bool
	}{
		"killed":    {unknown: true, says: "how far it got is unknown"},
		"not begun": {says: "nothing was changed; driver 550.163.01 stays", left: true},
	} {
		t.Run(name, func(t *testing.T) {
			conf, state := configOf(t)
			require.NoError(t, os.MkdirAll(state, 0o700))
			var said strings.Builder
			log, err := say.New(&said, "text", "info")
			require.NoError(t, err)
			start := func() *run {
				r := newRun(Event{101, PhasePostStart}, Options{Config: conf, Log: log})
				r.settings, err = conf.For(101)
				require.NoError(t, err)
				r.trace.Settings = r.settings.Redacted()
				return r
			}
			before := start()
			before.trace.Result, before.trace.Left = Installed, &Has{Driver: "550.163.01"}
			before.remember(nil)

			r := start()
			r.trace.Unknown = c.unknown
			unconcluded := worker.Unconcluded("process 7 was killed")
			r.conclude(t.Context(), unconcluded)
			r.trace.Say(log, unconcluded)
			require.Equal(t, Failed, r.trace.Result)
			require.Equal(t, c.left, r.trace.Left != nil)
			require.Contains(t, said.String(), c.says)
		})
	}
}

// What one part of a run found counts until another part finds more.
func TestPartsOfARunMakeOneTrace(t *testing.T) {
	look := Trace{Facts: Facts{Now: time.Unix(1, 0)}, Plan: Plan{Why: "not there", Steps: []Step{StepFetch, StepInstall, StepToolkit}}}
	r := newRun(Event{101, PhasePostStart}, Options{})
	r.addReport(report{Trace: look, Init: 7})
	require.Equal(t, look.Plan, r.trace.Plan)
	r.trace.Steps = []Outcome{{Step: StepFetch}}
	r.addReport(report{Trace: Trace{Facts: Facts{Now: time.Unix(2, 0)}, Plan: look.Plan, Steps: []Outcome{{Step: StepInstall}}, Left: &Has{Driver: "1"}}, Init: 7})
	r.addReport(report{Trace: Trace{Facts: Facts{Now: time.Unix(3, 0)}, Plan: Plan{Why: "no toolkit"}, Steps: []Outcome{{Step: StepToolkit}}, Left: &Has{Driver: "1", Toolkit: "12.8"}}, Init: 7})
	require.Equal(t, look.Plan, r.trace.Plan)
	require.Equal(t, []Outcome{{Step: StepFetch}, {Step: StepInstall}, {Step: StepToolkit}}, r.trace.Steps)
	require.Equal(t, "12.8", r.trace.Left.Toolkit)
	// A worker that hangs has seen nothing.
	r.addReport(report{Trace: Trace{Unknown: true}, Failure: &failure{Text: "stuck"}})
	require.Equal(t, look.Plan, r.trace.Plan)
	require.True(t, r.trace.Unknown)
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
