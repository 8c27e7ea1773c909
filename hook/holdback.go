package hook

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// holdBack refuses to try again soon what has just failed after a long time.
func holdBack(vmid int, wanted version.Driver, f Facts) *Plan {
	if f.Force || f.Asked || f.Failure == nil || f.Failure.Inputs != f.Inputs || !f.Failure.HoldsBack(f.Now) {
		return nil
	}
	return &Plan{
		Wanted:  wanted,
		Refused: true,
		Held:    true,
		Why: fmt.Sprintf("next attempt after %s, it failed %s: %s",
			f.Failure.Next.In(f.Now.Location()).Format("2006-01-02 15:04"), Times(f.Failure.Count), f.Failure.Reason),
		Hint: AtOnce(f.Failure.Hint, vmid),
	}
}

// Times says how often a run has failed: "once", "2 times in a row".
func Times(n int) string {
	if n <= 1 {
		return "once"
	}
	return fmt.Sprintf("%d times in a row", n)
}

// AtOnce is what to do about a failure that the next start would wait for: what
// mends it, and the run that does not wait.
func AtOnce(what string, vmid int) string {
	what = strings.ReplaceAll(what, "VMID", strconv.Itoa(vmid))
	apply := fmt.Sprintf("pve-nvidia-hook apply %d", vmid)
	switch {
	case what == "", strings.Contains(what, "does it again"):
		return apply
	case strings.Contains(what, apply):
		return what
	}
	return what + "; then at once: " + apply
}
