package record

import (
	"fmt"
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
	b, err := read(c, BegunPath, func(b Begun) error { return checkFiles(b.Files) })
	if err != nil {
		return nil, fmt.Errorf("read what was begun in the container: %w", err)
	}
	return b, nil
}

// WriteBegun puts it into the container, in one step.
func WriteBegun(c Container, b Begun) error {
	if err := write(c, BegunPath, b); err != nil {
		return fmt.Errorf("write what is begun into the container: %w", err)
	}
	return nil
}
