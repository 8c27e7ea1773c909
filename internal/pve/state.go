package pve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
)

// State is what enable has put into a container's configuration. It is kept on
// the host, so that disable takes away that and nothing else.
type State struct {
	Hookscript string         `json:"hookscript"`
	Chain      string         `json:"chain,omitempty"` // the hookscript that was there before, run after this program
	Dev        map[int]string `json:"dev,omitempty"`
	None       bool           `json:"none,omitempty"` // --gpus none: that Dev is empty is no failure
}

func stateFile(dir string, vmid int) string {
	return filepath.Join(dir, "enabled", strconv.Itoa(vmid)+".json")
}

// ReadState reads STATE/enabled/VMID.json. No file is the zero State and no error.
func ReadState(dir string, vmid int) (State, error) {
	var s State
	f, err := os.Open(stateFile(dir, vmid))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read what enable has set: %w", err)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&s); err != nil {
		return State{}, fmt.Errorf("read what enable has set: %s: %w", f.Name(), err)
	}
	return s, nil
}

// write keeps the state, or removes the file when there is nothing to remember.
func (s State) write(dir string, vmid int) error {
	file := stateFile(dir, vmid)
	if s.Hookscript == "" && s.Chain == "" && len(s.Dev) == 0 {
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

// ChainOf returns the hookscript volume that "enable --chain" found in a
// container and put aside, or "". It reads one small file and has no errors:
// the hook calls it in every phase.
func ChainOf(stateDir string, vmid int) string {
	s, err := ReadState(stateDir, vmid)
	if err != nil || Ours(s.Chain) {
		return ""
	}
	return s.Chain
}
