package hook

import (
	"fmt"
	"strings"
)

// Again is what this version of the program decides from the facts of a kept trace.
type Again struct {
	Plan    Plan
	Changes []Change
	// Otherwise is true when something else would be done than was done then, and
	// false when only the words differ.
	Otherwise bool
	// Undecided says why there is no decision to repeat, "" when there is one.
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
		// The run had nothing to do, so it did not look for what is in the way.
		now.Steps = []Step{StepFetch, StepInstall, StepVerify, StepRecord}
	}
	a := Again{Plan: now, Changes: changes(t.Plan, now)}
	for _, c := range a.Changes {
		// The reason of a refusal is a decision, that of anything else is words.
		a.Otherwise = a.Otherwise || c.Field != "why" && c.Field != "hint" || c.Field == "why" && now.Refused
	}
	return a
}

// changes compares two plans, field by field.
func changes(then, now Plan) []Change {
	var found []Change
	compare := func(field string, of func(Plan) string) {
		if a, b := of(then), of(now); a != b {
			found = append(found, Change{field, a, b})
		}
	}
	yes := func(b bool) string {
		if b {
			return "true"
		}
		return ""
	}
	compare("refused", func(p Plan) string { return yes(p.Refused) })
	compare("wanted", func(p Plan) string { return string(p.Wanted) })
	compare("steps", func(p Plan) string { return strings.ReplaceAll(strings.Trim(fmt.Sprint(p.Steps), "[]"), " ", ", ") })
	compare("verify", func(p Plan) string { return p.Verify })
	compare("adopt", func(p Plan) string { return yes(p.Adopt) })
	compare("held", func(p Plan) string { return yes(p.Held) })
	compare("why", func(p Plan) string { return p.Why })
	compare("hint", func(p Plan) string { return p.Hint })
	return found
}
