package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// BegunPath is where Begun stands in the container.
const BegunPath = Folder + "/begun.json"

// Begun names the files and links that an installer may put into a container, and
// that were not there when it was started. It is written before the installer
// runs and stays until all of them are gone: whatever stands there is the
// driver's, also what an installer that was killed has not noted down.
type Begun struct {
	Version version.Driver `json:"version"`
	At      time.Time      `json:"at"`
	Files   []File         `json:"files"` // with the sizes that they are to have
}

// ReadBegun returns what was begun in a container, or nil. Like the record it is
// the claim of an untrusted party.
func ReadBegun(c Container) (*Begun, error) {
	data, err := c.ReadFile(BegunPath, sizeLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was begun in the container: %w", err)
	}
	var b Begun
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("read what was begun in the container: %w", err)
	}
	if len(b.Files) > fileLimit {
		return nil, fmt.Errorf("read what was begun in the container: %d files, at most %d are accepted", len(b.Files), fileLimit)
	}
	for _, f := range b.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
			return nil, fmt.Errorf("read what was begun in the container: file %.80q is not a clean absolute path", f.Path)
		}
	}
	return &b, nil
}

// WriteBegun puts it into the container, in one step.
func WriteBegun(c Container, b Begun) error {
	data, err := json.MarshalIndent(b, "", " ")
	if err == nil {
		err = c.MkdirAll(Folder, 0o755)
	}
	if err == nil {
		err = c.WriteFile(BegunPath, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write what is begun into the container: %w", err)
	}
	return nil
}
