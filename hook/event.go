// Package hook is the story of one event: Proxmox calls with a VMID and a phase,
// the hook looks, decides, does and records.
package hook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// Phase is a moment in a container's life at which Proxmox calls hookscripts.
type Phase string

// The phases of Proxmox VE.
const (
	PhasePreStart  Phase = "pre-start"
	PhasePostStart Phase = "post-start"
	PhasePreStop   Phase = "pre-stop"
	PhasePostStop  Phase = "post-stop"
)

var phases = []Phase{PhasePreStart, PhasePostStart, PhasePreStop, PhasePostStop}

// Event is one call by Proxmox.
type Event struct {
	VMID  int
	Phase Phase
}

// IsCall reports whether arguments are meant as a hookscript call, right or
// wrong, rather than as a command line: two words, of which the first looks like
// a number or the second is a phase.
func IsCall(args []string) bool {
	return len(args) == 2 && args[0] != "" &&
		(slices.Contains(phases, Phase(args[1])) || args[0][0] >= '0' && args[0][0] <= '9')
}

// ParseEvent reads the two arguments of a hookscript call.
func ParseEvent(args []string) (Event, error) {
	if len(args) != 2 {
		return Event{}, fmt.Errorf("expected a VMID and a phase")
	}
	id, err := vmid.Parse(args[0])
	if err != nil {
		return Event{}, err
	}
	if !slices.Contains(phases, Phase(args[1])) {
		var names []string
		for _, p := range phases {
			names = append(names, string(p))
		}
		return Event{}, fmt.Errorf("unknown phase %.40q; known are %s", args[1], strings.Join(names, ", "))
	}
	return Event{id, Phase(args[1])}, nil
}
