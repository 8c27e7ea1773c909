// Package runfile reads NVIDIA's self-extracting driver installers (run files)
// without running them: the header, the payload, the manifest.
package runfile

import (
	"context"
	"io"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Header is what the text at the start of a run file says of it.
type Header struct {
	Label     string // "NVIDIA Accelerated Graphics Driver for Linux-x86_64 580.76.05"
	Version   version.Driver
	Arch      string   // x86_64 or aarch64
	TargetDir string   // NVIDIA-Linux-x86_64-580.76.05
	Script    string   // ./nvidia-installer
	MD5       string   // hex; of everything from the 4th line on
	CRC       uint32   // POSIX cksum of the same bytes
	Skip      int      // the payload starts at this line, counted from 1
	Payload   int64    // byte offset of the payload
	Options   []string // every option that the header's help text names, as "--name"
}

// Knows reports whether the installer of this file accepts an option, given as
// "--name" or "--name=value". Options that its help text leaves out but that it accepts
// (--no-kernel-module from 515 on) count as known.
func (h Header) Knows(option string) bool { panic("todo") }

// ReadHeader reads the header of a run file and leaves r at the payload's first
// byte, or somewhere behind it. At most 4 MiB are read.
func ReadHeader(r io.Reader) (Header, error) { panic("todo") }

// Want is what a run file must be to be accepted.
type Want struct {
	Version version.Driver
	Arch    string // x86_64 or aarch64
	SHA256  string // hex; "" when nobody publishes one
	Size    int64  // bytes; 0 when unknown
}

// Check compares a header with what is wanted, and says what differs.
func (h Header) Check(w Want) error { panic("todo") }

// Report is what is known of a run file after it was read to its end.
type Report struct {
	Header   Header
	Size     int64
	SHA256   string
	Files    int   // members written
	Unpacked int64 // bytes written
	Elapsed  time.Duration
}

// Unpack reads a run file once from its first byte to its last, checks it
// against w on the way, and writes its payload into the new folder dir. Hashing,
// decompression and writing run side by side and hold a bounded amount of
// memory. A wrong header ends it before anything is unpacked. On an error dir may hold a part: the caller removes it.
// dir may be "": then the file is only checked.
func Unpack(ctx context.Context, r io.Reader, dir string, w Want) (Report, error) { panic("todo") }

// Kind of a manifest entry that this program cares about.
type Entry struct {
	Path     string // in the unpacked tree; for a link, its name
	Mode     uint32
	Type     string // CUDA_LIB, UTILITY_BINARY, CUDA_SYMLINK ...
	Compat32 bool
	Dest     string // the PATH field, when the type has one: below the library folder, or absolute
	Target   string // of a *_SYMLINK
	Module   string
}

// Manifest is the parsed .manifest of an unpacked tree.
type Manifest struct {
	Version version.Driver
	Entries []Entry
}

// ReadManifest parses a .manifest, at most 4 MiB of it.
func ReadManifest(r io.Reader) (Manifest, error) { panic("todo") }
