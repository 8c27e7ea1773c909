// Package runfile reads NVIDIA's self-extracting driver installers (run files)
// without running them: the header, the payload, the manifest.
package runfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// ErrContent marks an error that lies in the bytes themselves: not a run file,
// another version, a broken or hostile payload, a wrong checksum. Reading the
// same bytes again cannot help: throw them away and try another source.
var ErrContent = errors.New("wrong content")

type marked struct{ err, mark error }

func (m *marked) Error() string        { return m.err.Error() }
func (m *marked) Unwrap() error        { return m.err }
func (m *marked) Is(target error) bool { return target == m.mark }

// wrong formats an error of the content.
func wrong(format string, args ...any) error {
	return &marked{fmt.Errorf(format, args...), ErrContent}
}

// Header is what the text at the start of a run file says of it.
type Header struct {
	Label     string // "NVIDIA Accelerated Graphics Driver for Linux-x86_64 580.76.05"
	Version   version.Driver
	Arch      string   // x86_64 or aarch64
	TargetDir string   // NVIDIA-Linux-x86_64-580.76.05; "" in very old files
	Script    string   // ./nvidia-installer
	MD5       string   // hex; of everything from the 4th line on
	Skip      int      // the payload starts at this line, counted from 1
	Payload   int64    // byte offset of the payload
	Options   []string // every installer option that the header's help text names, as "--name", sorted
}

// Want is what a run file must be to be accepted.
type Want struct {
	Version version.Driver // "" when any version will do
	Arch    string         // x86_64 or aarch64; "" when either will do
	SHA256  string         // hex; "" when nobody publishes one
}

// Check compares a header with what is wanted, and says what differs.
func (h Header) Check(w Want) error {
	if w.Version != "" && h.Version != w.Version {
		return hint.Wrap(wrong("the file is driver version %s, wanted %s", h.Version, w.Version),
			"check that the URL or the file is of the wanted version")
	}
	if w.Arch != "" && h.Arch != w.Arch {
		return hint.Wrap(wrong("the file is for %s, wanted %s", h.Arch, w.Arch),
			"use the run file of this machine's architecture")
	}
	return nil
}

// VGPUHost reports whether the file that bears this header, and name, holds the
// vGPU host driver. NVIDIA names it NVIDIA-Linux-x86_64-VERSION-vgpu-kvm.run, and by
// its label it is an ordinary driver.
func (h Header) VGPUHost(name string) bool {
	return strings.Contains(h.TargetDir+" "+h.Label+" "+filepath.Base(name), "-vgpu-kvm")
}

// Report is what is known of a run file after it was read to its end.
type Report struct {
	Header   Header
	Size     int64 // bytes
	SHA256   string
	Files    int   // members written, folders included
	Unpacked int64 // bytes written
	Elapsed  time.Duration
}

// fileName is NVIDIA's name for the file wanted, for messages.
func (w Want) fileName() string {
	if w.Version == "" || w.Arch == "" {
		return "run file"
	}
	return fmt.Sprintf("NVIDIA-Linux-%s-%s.run", w.Arch, w.Version)
}
