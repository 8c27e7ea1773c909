package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
)

// kept is a trace after a round through its file.
func kept(t *testing.T, trace Trace) Trace {
	t.Helper()
	data, err := json.Marshal(trace)
	require.NoError(t, err)
	var read Trace
	require.NoError(t, json.Unmarshal(data, &read))
	return read
}

func traceOf(s config.Settings, f Facts) Trace {
	s.VMID, s.Wanted = 101, true
	s.Driver.Version = "host"
	s.Driver.Verify = "nvidia-smi"
	f.Now = time.Now()
	return Trace{VMID: 101, Phase: PhasePostStart, Settings: s, Facts: f, Plan: Decide(s, f)}
}

func TestAKeptTraceIsDecidedAlike(t *testing.T) {
	host := HostFacts{Arch: "x86_64", Module: "580.142"}
	for name, f := range map[string]Facts{
		"install":   {Host: host, Deep: &DeepFacts{}},
		"in place":  {Host: host, Container: ContainerFacts{Recorded: "580.142", Verified: "nvidia-smi"}},
		"no module": {},
		"held back": {Host: host, Inputs: "a", Failure: &record.Failure{Count: 2, Seconds: 60, Inputs: "a", Reason: "no", Next: time.Now().Add(time.Hour)}},
	} {
		t.Run(name, func(t *testing.T) {
			again := kept(t, traceOf(config.Settings{}, f)).Again()
			require.Empty(t, again.Changes)
			require.False(t, again.Otherwise)
			require.Empty(t, again.Undecided)
		})
	}
}

func TestAnotherDecisionIsToldFromOtherWords(t *testing.T) {
	facts := Facts{Host: HostFacts{Arch: "x86_64", Module: "580.142"}, Deep: &DeepFacts{}}
	for name, c := range map[string]struct {
		change    func(*Plan)
		field     string
		otherwise bool
	}{
		"steps":   {func(p *Plan) { p.Steps = p.Steps[1:] }, "steps", true},
		"version": {func(p *Plan) { p.Wanted = "550.163.01" }, "wanted", true},
		"refused": {func(p *Plan) { *p = Plan{Refused: true} }, "refused", true},
		"taken":   {func(p *Plan) { p.Adopt = true }, "adopt", true},
		"held":    {func(p *Plan) { p.Held = true }, "held", true},
		"verify":  {func(p *Plan) { p.Verify = "files" }, "verify", true},
		"words":   {func(p *Plan) { p.Why = "because" }, "why", false},
	} {
		t.Run(name, func(t *testing.T) {
			trace := traceOf(config.Settings{}, facts)
			c.change(&trace.Plan)
			again := trace.Again()
			require.NotEmpty(t, again.Changes)
			require.Equal(t, c.field, again.Changes[0].Field)
			require.Equal(t, c.otherwise, again.Otherwise)
		})
	}
}

func TestARunThatDecidedNothingSaysWhy(t *testing.T) {
	trace := traceOf(config.Settings{}, Facts{})
	trace.Facts, trace.Reason = Facts{}, "locked"
	require.Contains(t, trace.Again().Undecided, "locked")

	trace.Settings.Wanted, trace.Settings.WhyNot = false, "a file says so"
	trace.Plan = unwanted(trace.Settings)
	require.Equal(t, Again{Plan: trace.Plan}, trace.Again())
}

func TestSecretsAreCutOutOfErrors(t *testing.T) {
	s := config.Settings{}
	s.Driver.URLs = []string{"https://me:p%40ss-word-1@host/x?sig=12345678"}
	for text, want := range map[string]string{
		`fetch https://me:p%40ss-word-1@host/x?sig=12345678: no`: `fetch https://***@host/x?***: no`,
		`proxy http://a:b@proxy:3128 says 407, http://c:d@e`:     `proxy http://***@proxy:3128 says 407, http://***@e`,
		`wrong password p@ss-word-1`:                             `wrong password ***`,
		`https://host/a@b stays, as do a@b and ://`:              `https://host/a@b stays, as do a@b and ://`,
	} {
		r := &run{settings: s, Options: Options{Request: Request{DryRun: true}}}
		r.conclude(t.Context(), errors.New(text))
		require.Equal(t, want, r.trace.Reason)
	}
}

// A trace may come from anywhere, by mail for instance.
func FuzzATraceFromElsewhere(f *testing.F) {
	for _, facts := range []Facts{{}, {Host: HostFacts{Arch: "x86_64", Module: "580.142"}, Deep: &DeepFacts{}}} {
		data, err := json.Marshal(traceOf(config.Settings{}, facts))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		trace, err := ReadTrace(bytes.NewReader(data))
		if err != nil {
			return
		}
		if again := trace.Again(); again.Otherwise && len(again.Changes) == 0 {
			t.Error("decided otherwise, and nothing differs")
		}
	})
}

// The release of a toolkit is the container's word, and goes into the kept trace.
func TestTheReleaseOfAToolkitIsMadeHarmless(t *testing.T) {
	claim := []byte(`{"ok":true,"release":"\u001b[2J\u202e` + strings.Repeat("x", 100_000) + `"}`)
	has := hasOf(&record.Installed{Toolkit: claim}, "").Toolkit
	require.Less(t, len(has), 100)
	require.NotContains(t, has, "\x1b")
	require.NotContains(t, has, "\u202e")
}
