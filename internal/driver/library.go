package driver

import (
	"path"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// LibraryVersion returns the version in the name of a library of the driver, such
// as /usr/lib64/libcuda.so.580.95.05, and "" for any other file: one with a version
// of its own, or of another package.
func LibraryVersion(file string) version.Driver {
	name := path.Base(file)
	if !orphan().MatchString(name) || theirs().MatchString(name) {
		return ""
	}
	return versionOf(name)
}
