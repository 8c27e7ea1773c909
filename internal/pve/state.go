package pve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// State is what enable has put into a container's configuration. It is kept on
// the host, so that disable takes away that and nothing else.
type State struct {
	Hookscript string            `json:"hookscript"`
	Dev        map[int]string    `json:"dev,omitempty"`
	GPUs       string            `json:"gpus,omitempty"`   // what was chosen: all, none, or cards by UUID
	Cards      map[string]string `json:"cards,omitempty"`  // which card, by UUID, each node was then
	DRI        bool              `json:"dri,omitempty"`    // the cards' nodes in /dev/dri too
	Docker     bool              `json:"docker,omitempty"` // NVIDIA's Container Toolkit is wanted
	Kept       []string          `json:"kept,omitempty"`   // entries in the same words that were there before
	None       bool              `json:"none,omitempty"`   // --gpus none: that Dev is empty is no failure
}

func stateFile(dir string, vmid int) string {
	return filepath.Join(dir, "enabled", strconv.Itoa(vmid)+".json")
}

// ReadState reads STATE/enabled/VMID.json. No file is the zero State and no error.
func ReadState(dir string, vmid int) (State, error) {
	var s State
	raw, err := trust.ReadFile(stateFile(dir, vmid), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return State{}, fmt.Errorf("read what enable has set: %s: %w", stateFile(dir, vmid), err)
	}
	return s, nil
}

// Docker reports whether enable --docker holds for a container of this node. dir is
// the state folder. A record that cannot be read is no wish; doctor tells of it.
func Docker(root, dir string, vmid int) bool {
	s, err := ReadState(dir, vmid)
	if err != nil || !s.Docker {
		return false
	}
	c, err := ReadConf(root, vmid)
	return err == nil && s.of(c.Next())
}

// of reports whether the record is of the container with that configuration: one
// that was restored or made anew has another, and the number stays the same.
func (s State) of(next Section) bool {
	return Ours(next.Hookscript) && s.Hookscript == next.Hookscript && s.holds(next)
}

// adopt returns what enable has set in a container, as its configuration tells.
// A clone, a backup that was restored, a rollback or a container from another
// node brings the hookscript and the entries, and no record or that of another
// one: then the entries that stand in enable's own words are enable's, but for
// those which were there before it. So what is remembered by a VMID counts only
// where the configuration agrees, as a number is given out again.
func (s State) adopt(next Section) State {
	if !Ours(next.Hookscript) {
		return s
	}
	if s.Hookscript != next.Hookscript {
		s = State{}
	} else if s.holds(next) {
		return s
	}
	s.Dev = maps.Clone(s.Dev) // what was changed by hand is still told as that
	for n, value := range next.Dev {
		if enabledLine().MatchString(value) && !slices.Contains(s.Kept, value) {
			put(&s.Dev, n, value)
		}
	}
	return s
}

// holds reports whether the entries that a record tells of are there, or were
// changed by hand, which is never in enable's own words.
func (s State) holds(next Section) bool {
	for n, value := range s.Dev {
		if now := next.Dev[n]; now != value && (now == "" || enabledLine().MatchString(now)) {
			return false
		}
	}
	return true
}

// write keeps the state, or removes the file when there is nothing to remember.
func (s State) write(dir string, vmid int) error {
	file := stateFile(dir, vmid)
	if s.Hookscript == "" && len(s.Dev) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what enable has set: %w", err)
		}
		return nil
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if _, err := record.Below(dir, "enabled"); err != nil {
		return fmt.Errorf("remember what enable sets: %w", err)
	}
	if err := renameio.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("remember what enable sets: %w", err)
	}
	return nil
}
