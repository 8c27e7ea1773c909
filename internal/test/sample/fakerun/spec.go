package fakerun

import (
	"archive/tar"
	"fmt"
	"io"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Spec says what a sample run file is like. Only Version is needed.
type Spec struct {
	Version string // "550.163.01"
	Arch    string // x86_64 (default) or aarch64

	// Size is the wanted size of the run file in bytes, met within about a tenth. Its
	// payload unpacks to four times that, of which 44 % are user space of the
	// machine's own word size, as in NVIDIA's files. 0: as small as it gets, about 3 MB.
	Size int64

	// Compression of the payload: zstd, xz or gzip. "": what NVIDIA used for the version, that
	// is xz before 530.30.02, then zstd. xz writes only some 5 MB a second.
	Compression string

	// NoDecompressor leaves out the embedded decompressor, which takes 2.4 MB and needs
	// the go command once per machine. The file then runs only where the tool is installed.
	NoDecompressor bool

	// Owner is the uid and gid of the tar's members (default 1000). tar in a container
	// with 65536 ids cannot restore an owner beyond them.
	Owner int

	// Unknown puts a type into the manifest that the sample's own installer does not know.
	Unknown bool

	// Extra members are put into the tar behind the others, each followed by as many zeros as
	// its header's Size says: for names, links and devices that must be refused.
	Extra []tar.Header

	// Tar, when set, writes the payload in place of the usual one, before compression.
	Tar func(io.Writer) error
}

// Name is the file name that NVIDIA gives a run file of this version.
func (s Spec) Name() string { return s.targetDir() + ".run" }

func (s Spec) targetDir() string {
	return "NVIDIA-Linux-" + s.withDefaults().Arch + "-" + s.Version
}

func (s Spec) label() string {
	return "NVIDIA Accelerated Graphics Driver for Linux-" + s.Arch
}

// since reports whether the sample's version is v or later.
func (s Spec) since(v version.Driver) bool {
	return version.Compare(version.Driver(s.Version), v) >= 0
}

func (s Spec) withDefaults() Spec {
	if s.Arch == "" {
		s.Arch = "x86_64"
	}
	if s.Owner == 0 {
		s.Owner = 1000
	}
	if s.Compression == "" {
		s.Compression = "xz"
		if s.since("530.30.02") {
			s.Compression = "zstd"
		}
	}
	return s
}

func (s Spec) check() error {
	if _, err := version.Parse(s.Version); err != nil {
		return err
	}
	if s.Arch != "x86_64" && s.Arch != "aarch64" {
		return fmt.Errorf("architecture %q is neither x86_64 nor aarch64", s.Arch)
	}
	if !slices.Contains([]string{"zstd", "xz", "gzip"}, s.Compression) {
		return fmt.Errorf("compression %q is none of zstd, xz and gzip", s.Compression)
	}
	if s.Size < 0 {
		return fmt.Errorf("size %d is negative", s.Size)
	}
	return nil
}
