// Package inuse says which processes of a running container still use another
// driver than the installed one, or have an NVIDIA device open. It reads the
// host's cgroup tree and /proc only: no process is started in the container and
// no file of it is opened. All that is read is the container's word, and bounded.
package inuse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const (
	maxHolders = 100                    // that are told apart; more are counted only
	answerWait = 250 * time.Millisecond // for what the kernel says of one process; it takes some 0.1 ms
	maxSilent  = 20                     // processes that do not answer before the look ends
	lookLimit  = 10 * time.Second       // for all of them
)

// Use is what the processes of a container use.
type Use struct {
	Holders []Holder `json:"holders,omitempty"`
	Looked  int      `json:"looked"`            // processes that were looked at
	Partial string   `json:"partial,omitempty"` // why not all were, in words
}

// Holder is a unit, a nested container, or a command, whose processes use the driver.
type Holder struct {
	Owner
	Command   string           `json:"command,omitempty"` // of the first process
	Process   int              `json:"process,omitempty"` // the first one, as the host numbers it
	Processes int              `json:"processes"`
	Versions  []version.Driver `json:"versions,omitempty"` // other than the installed one
	Deleted   bool             `json:"deleted,omitempty"`  // files of the installed version that are there no more
	Devices   []string         `json:"devices,omitempty"`  // such as /dev/nvidia0
}

// Old reports whether it uses another driver than the installed one.
func (h Holder) Old() bool { return len(h.Versions) > 0 || h.Deleted }

// Name is the unit, else the nested container, else command and process number.
func (h Holder) Name() string {
	switch {
	case h.Unit != "" && h.User != "":
		return fmt.Sprintf("%s of user %s", h.Unit, h.User)
	case h.Unit != "":
		return h.Unit
	case h.Nested != "":
		return fmt.Sprintf("%s container %s", h.Engine, h.short())
	case h.Processes > 1:
		return fmt.Sprintf("%s (process %d and %d more)", h.Command, h.Process, h.Processes-1)
	}
	return fmt.Sprintf("%s (process %d)", h.Command, h.Process)
}

// String says what it uses, such as "ollama.service still uses driver 580.95.05".
func (h Holder) String() string {
	var uses []string
	if len(h.Versions) > 0 {
		words := make([]string, len(h.Versions))
		for i, v := range h.Versions {
			words[i] = string(v)
		}
		uses = append(uses, "still uses driver "+strings.Join(words, " and "))
	}
	if h.Deleted {
		uses = append(uses, "still uses files of the driver that were replaced")
	}
	if len(uses) == 0 {
		uses = append(uses, "has "+strings.Join(h.Devices, ", ")+" open")
	}
	return h.Name() + " " + strings.Join(uses, ", and ")
}

// Old lists those that use another driver than the installed one.
func (u Use) Old() []Holder {
	return slices.DeleteFunc(slices.Clone(u.Holders), func(h Holder) bool { return !h.Old() })
}

// Look looks at the processes of a container. cgroup is the absolute path of the
// container's own cgroup (v2) on the host, installed the version of the driver in the
// container. An error means that nothing could be looked at.
func Look(ctx context.Context, cgroup string, installed version.Driver) (Use, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	m, err := membersOf(ctx, cgroup)
	if err != nil {
		return Use{}, fmt.Errorf("look at the processes of the container: %w", err)
	}
	u := Use{Partial: m.partial}
	found := map[string]*Holder{}
	silent, left := 0, 0
	for _, p := range m.all {
		if ctx.Err() != nil || silent == maxSilent {
			break
		}
		s, answered := p.ask()
		u.Looked++
		switch {
		case !answered:
			silent++
			continue
		case !s.uses(installed):
			continue
		}
		h := found[p.key(s)]
		if h == nil {
			if len(found) == maxHolders {
				left++
				continue
			}
			h = &Holder{Owner: p.owner, Command: s.command, Process: p.pid}
			found[p.key(s)] = h
		}
		h.add(s, installed)
	}
	switch {
	case u.Looked < len(m.all):
		u.Partial = fmt.Sprintf("%d of its processes were looked at, not all of %d", u.Looked, len(m.all))
	case silent > 0:
		u.Partial = say.Count(silent, "process") + " did not answer"
	case left > 0:
		u.Partial = fmt.Sprintf("%d more that use a driver are left out", left)
	}
	for _, h := range found {
		slices.SortFunc(h.Versions, version.Compare)
		slices.Sort(h.Devices)
		u.Holders = append(u.Holders, *h)
	}
	slices.SortFunc(u.Holders, func(a, b Holder) int { return strings.Compare(a.Name(), b.Name()) })
	return u, nil
}

func (h *Holder) add(s seen, installed version.Driver) {
	h.Processes++
	for v, deleted := range s.versions {
		switch {
		case v != installed && !slices.Contains(h.Versions, v) && len(h.Versions) < maxKept:
			h.Versions = append(h.Versions, v)
		case v == installed:
			h.Deleted = h.Deleted || deleted
		}
	}
	for _, d := range s.devices {
		if !slices.Contains(h.Devices, d) && len(h.Devices) < maxKept {
			h.Devices = append(h.Devices, d)
		}
	}
}

// maxKept is how many versions, and how many devices, are kept of one process or
// holder: a container can have as many names as it likes.
const maxKept = 16
