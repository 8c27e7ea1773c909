// Package record keeps what is true after a run: in the container, what is
// installed there (so that it travels with clone, restore and rollback), and on
// the host, the last runs and failures of each container.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const (
	// Folder in the container that belongs to this program.
	Folder = "/var/lib/pve-nvidia-hook"
	// Path of the record in the container.
	Path = Folder + "/installed.json"
	// Shared is where the shared driver is mounted in a container.
	Shared = "/usr/lib/pve-nvidia-hook/driver"
	// ByShare is what Installed.Delivered says of the shared driver.
	ByShare = "share"

	format    = 1
	sizeLimit = 256 << 10 // bytes; a real record has about 10 kB
	fileLimit = 2000
	listLimit = fileLimit + 500 // objects and lists; each that is nested costs memory when it is written again
)

// Installed says what a run has installed and verified in a container. It is
// written last, and read as the claim of an untrusted party: believing a false
// one costs only the container that wrote it.
type Installed struct {
	Format    int            `json:"format"`
	Version   version.Driver `json:"version,omitempty"` // "" when no driver is installed
	Arch      string         `json:"arch,omitempty"`
	Files     []File         `json:"files,omitempty"`
	Verified  string         `json:"verified,omitempty"`  // nvidia-smi | files: of these only so far
	Delivered string         `json:"delivered,omitempty"` // mount | push | share: then Files are its set-up
	Layout    string         `json:"layout,omitempty"`    // of the shared driver, what the set-up was made for
	// Capabilities are the parts of the driver that were asked for, sorted. None:
	// all of it, by a version of this program that knew no other way.
	Capabilities []string        `json:"capabilities,omitempty"`
	At           time.Time       `json:"at"`
	Program      string          `json:"program"`
	Toolkit      json.RawMessage `json:"toolkit,omitempty"` // belongs to internal/cuda
	Docker       json.RawMessage `json:"docker,omitempty"`  // belongs to internal/docker
	// Lacks are packages of the distribution that the driver's libraries need and
	// the container did not have after the driver's installation; Packages is what
	// was installed for that.
	Lacks    []string        `json:"lacks,omitempty"`
	Packages json.RawMessage `json:"packages,omitempty"` // belongs to internal/cuda
	// Rebooted is the driver after whose installation the container was last
	// rebooted from inside. It is set before, and stays when the driver goes.
	Rebooted  version.Driver `json:"rebooted,omitempty"`
	RebootDue bool           `json:"reboot_due,omitempty"` // it is still to come, in the run that wrote this
}

// File is an installed file or link of the driver.
type File struct {
	Path string `json:"path"`
	Size int64  `json:"size,omitempty"` // bytes, of a file
	Link string `json:"link,omitempty"` // target, of a symbolic link
}

// Container is what a record needs of a container.
type Container interface {
	ReadFile(name string, limit int64) ([]byte, error)
	WriteFile(name string, data []byte, mode fs.FileMode) error
	MkdirAll(name string, mode fs.FileMode) error
	Remove(name string) error
}

// Read returns the record of a container, or nil when it has none. An error
// means a record that cannot be trusted; the caller goes on as without one.
func Read(c Container) (*Installed, error) {
	in, err := read(c, Path, Installed.check)
	if err != nil {
		return nil, fmt.Errorf("read the record in the container: %w", err)
	}
	return in, nil
}

// read reads a file of ours in a container, nil when there is none.
func read[T any](c Container, name string, check func(T) error) (*T, error) {
	data, err := c.ReadFile(name, sizeLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var t T
	if err == nil && bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) > listLimit {
		err = fmt.Errorf("it has more than %d objects and lists", listLimit)
	}
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err == nil {
		err = check(t)
	}
	return &t, err
}

func (in Installed) check() error {
	if in.Format != format {
		return fmt.Errorf("format %d, this program writes %d", in.Format, format)
	}
	for _, v := range []version.Driver{in.Version, in.Rebooted} {
		if v == "" {
			continue
		}
		if _, err := version.Parse(string(v)); err != nil {
			return err
		}
	}
	return checkFiles(in.Files)
}

func checkFiles(files []File) error {
	if len(files) > fileLimit {
		return fmt.Errorf("%d files, at most %d are accepted", len(files), fileLimit)
	}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
			return fmt.Errorf("file %.80q is not a clean absolute path", f.Path)
		}
	}
	return nil
}

// Write puts the record into the container, in one step.
func Write(c Container, in Installed) error {
	in.Format = format
	if err := write(c, Path, in); err != nil {
		return fmt.Errorf("write the record in the container: %w", err)
	}
	return nil
}

func write(c Container, name string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err == nil {
		err = c.MkdirAll(Folder, 0o755)
	}
	if err == nil {
		err = c.WriteFile(name, append(data, '\n'), 0o644)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return hint.Wrap(err, "the container's disk is full: make room or enlarge it (pct resize)")
	}
	return err
}

// Remove takes the record away: from here on nothing is claimed.
func Remove(c Container) error {
	if err := c.Remove(Path); err != nil {
		return fmt.Errorf("remove the record in the container: %w", err)
	}
	return nil
}
