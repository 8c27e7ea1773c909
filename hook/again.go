package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
)

// Again is what today's program makes of the facts of a kept trace.
type Again struct {
	Plan    Plan
	Changes []Change
	// Otherwise is true when another thing would be done than was done then,
	// false when only the words are others.
	Otherwise bool
	// Undecided says why the run decided nothing that could be decided again.
	Undecided string
}

// Change is one field of the plan that is another today.
type Change struct{ Field, Then, Now string }

// Again decides again from the settings and facts of a trace. It reads nothing
// else, so it works on any machine.
func (t Trace) Again() Again {
	switch {
	case t.Phase != PhasePostStart && t.Phase != PhaseUninstall:
		return Again{Plan: t.Plan, Undecided: fmt.Sprintf("%s decides nothing", t.Phase)}
	case t.Facts.Now.IsZero() && (t.Settings.Wanted || t.Settings.VMID == 0):
		why := "the run ended before it looked at the container"
		if t.Reason != "" {
			why += ": " + t.Reason
		}
		return Again{Plan: t.Plan, Undecided: why}
	}
	var now Plan
	switch {
	case t.Phase == PhaseUninstall:
		now = DecideUninstall(t.Settings, t.Facts)
	case t.Settings.Wanted:
		now = Decide(t.Settings, t.Facts)
	default:
		now = unwanted(t.Settings)
	}
	if now.Deeper {
		// Then nothing was to be done, so nobody looked for what is in the way.
		now.Steps = []Step{StepFetch, StepInstall, StepVerify, StepRecord}
	}
	a := Again{Plan: now, Changes: changes(t.Plan, now)}
	for _, c := range a.Changes {
		// The reason of a refusal is a decision, that of anything else is words.
		a.Otherwise = a.Otherwise || c.Field != "why" && c.Field != "hint" || c.Field == "why" && now.Refused
	}
	return a
}

// changes compares two plans by their JSON, field by field.
func changes(then, now Plan) []Change {
	a, b := fieldsOf(then), fieldsOf(now)
	var found []Change
	for _, name := range []string{"refused", "wanted", "steps", "verify", "why", "hint"} {
		if a[name] != b[name] {
			found = append(found, Change{name, a[name], b[name]})
		}
		delete(a, name)
		delete(b, name)
	}
	var rest []string // fields that only another version of this program has
	for name := range a {
		rest = append(rest, name)
	}
	for name := range b {
		if !slices.Contains(rest, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	for _, name := range rest {
		if a[name] != b[name] {
			found = append(found, Change{name, a[name], b[name]})
		}
	}
	return found
}

func fieldsOf(p Plan) map[string]string {
	data, err := json.Marshal(p)
	if err != nil {
		return nil // cannot be: all of it is plain data
	}
	var raw map[string]any
	if json.Unmarshal(data, &raw) != nil {
		return nil
	}
	fields := map[string]string{}
	for name, v := range raw {
		if list, ok := v.([]any); ok {
			words := make([]string, len(list))
			for i, w := range list {
				words[i] = fmt.Sprint(w)
			}
			v = strings.Join(words, ", ")
		}
		fields[name] = fmt.Sprint(v)
	}
	return fields
}

// Chained names the hookscript that runs after this program's own work on a
// container, or "".
func Chained(c *config.Config, vmid int) string { return chained(c, vmid) }

// RunChained calls that hookscript as Proxmox would, and returns its exit
// status. It needs of o Host and Log.
func RunChained(ctx context.Context, volume string, e Event, o Options) int {
	return runChained(ctx, o.Host, volume, e, o.Log)
}
