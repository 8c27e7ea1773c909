package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Job is one installation of a run file in a container.
type Job struct {
	Tree         string               // path on the host of the unpacked run file
	Report       runfile.Report       // what is known of it
	Capabilities []runfile.Capability // what of it is wanted; none: all
	Deliver      string               // auto | mount | push
	Flags        []string             // further options for the installer
	Timeout      time.Duration        // for the installer
	Log          say.Log
}

// Capabilities names them as a configuration does.
func Capabilities(names []string) []runfile.Capability {
	found := make([]runfile.Capability, len(names))
	for i, name := range names {
		found[i] = runfile.Capability(name)
	}
	return found
}

// Version is the driver version that the job installs.
func (j Job) Version() version.Driver { return j.Report.Header.Version }

func (j Job) arch() string { return j.Report.Header.Arch }

const (
	with32    = "--install-compat32-libs"
	without32 = "--no-install-compat32-libs"
)

// capabilities are those that are wanted. An option of the user's for the 32-bit
// libraries says whether they are among them.
func (j Job) capabilities() []runfile.Capability {
	wanted := slices.Clone(j.Capabilities)
	if len(wanted) == 0 {
		wanted = []runfile.Capability{runfile.All}
	}
	if slices.Contains(j.Flags, with32) && !slices.Contains(wanted, runfile.Compat32) {
		wanted = append(wanted, runfile.Compat32)
	}
	if slices.Contains(j.Flags, without32) {
		wanted = slices.DeleteFunc(wanted, func(c runfile.Capability) bool { return c == runfile.Compat32 })
	}
	return wanted
}

// wants tells whether a capability is wanted, by its name or with all of them.
func (j Job) wants(c runfile.Capability) bool {
	wanted := j.capabilities()
	return slices.Contains(wanted, c) || slices.Contains(wanted, runfile.All) && !(c == runfile.Compat32 && slices.Contains(j.Flags, without32))
}

// Manifest names what of the run file is wanted.
func (j Job) Manifest() (runfile.Manifest, error) {
	f, err := os.Open(filepath.Join(j.Tree, ".manifest"))
	if err != nil {
		return runfile.Manifest{}, fmt.Errorf("read the run file's manifest: %w", err)
	}
	defer f.Close()
	m, err := runfile.ReadManifest(f)
	if err == nil {
		m, err = m.Choose(j.Tree, j.capabilities())
	}
	if err != nil {
		return m, fmt.Errorf("read the run file's manifest: %w", err)
	}
	return m, nil
}

// size is how many bytes the user space takes when it is installed.
func (j Job) size() (int64, error) {
	m, err := j.Manifest()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range m.Entries {
		if e.IsLink() || e.Compat32 && !j.wants(runfile.Compat32) {
			continue
		}
		if info, err := os.Lstat(filepath.Join(j.Tree, e.Path)); err == nil {
			sum += info.Size()
		}
	}
	return sum, nil
}

// wantedFlags are the options of an unattended installation of the user space.
// Each is passed only when the run file's installer knows it: one that it does
// not know ends it with nothing done.
var wantedFlags = []string{
	"--silent",
	noModules,
	// Without it libraries with the driver's names are moved away wherever they
	// stand below the library folders, such as CUDA's stubs.
	"--no-recursion",
	"--no-nouveau-check", // it looks at the host's PCI devices
	"--no-x-check",
	"--no-rpms",
	"--no-check-for-alternate-installs", // Blockers has looked
	"--no-distro-scripts",
	"--no-nvidia-modprobe", // a setuid program that loads modules
	without32,
	"--no-install-libglvnd",
	"--no-libglx-indirect",
	"--no-systemd",
	"--no-wine-files",
	"--skip-depmod",
}

// noModules is the name that every installer takes. Since 515.43.04 it is an
// alias that the help text does not list.
const noModules = "--no-kernel-module"

// Options returns the options for the installer. An option of the user's that
// says the opposite of one of ours takes its place.
func (j Job) Options() []string {
	h := j.Report.Header
	var options []string
	for _, o := range wantedFlags {
		switch {
		case o == noModules && h.Knows(noModules+"s"):
			o += "s"
		case o == without32 && slices.Contains(j.capabilities(), runfile.Compat32):
			o = with32
		case o == without32 && j.wants(runfile.Compat32):
			continue // where there is a place for them
		case o == "--no-wine-files" && j.wants(runfile.NGX):
			continue
		}
		opposite := "--" + strings.TrimPrefix(o, "--no-")
		if h.Knows(o) && !slices.Contains(j.Flags, o) && (opposite == o || !slices.Contains(j.Flags, opposite)) {
			options = append(options, o)
		}
	}
	return append(options, j.Flags...)
}

func (j Job) knownFlags() error {
	for _, o := range j.Flags {
		if !j.Report.Header.Knows(o) {
			return hint.Errorf(`remove it from "flags" in the configuration`,
				"the installer of %s does not know the option %s", j.Version(), o)
		}
	}
	return nil
}
