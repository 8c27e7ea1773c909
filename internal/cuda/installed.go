package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Installed is what this program has put into a container for the toolkit. It
// is kept in the container's record as JSON.
type Installed struct {
	OK       bool           `json:"ok"` // verified; false: a run that failed left this
	Toolkit  string         `json:"wanted,omitempty"`
	Packages []string       `json:"packages,omitempty"` // wanted besides
	RepoURL  string         `json:"repo_url,omitempty"` // as it was configured
	Driver   version.Driver `json:"driver,omitempty"`   // that "auto" was decided for
	Release  string         `json:"release,omitempty"`  // 12.8
	Version  string         `json:"version,omitempty"`  // 12.8.93, of nvcc
	Nvcc     string         `json:"nvcc,omitempty"`     // path in the container
	NvccSize int64          `json:"nvcc_size,omitempty"`

	Distro string   `json:"distro,omitempty"` // NVIDIA's folder name
	Tool   string   `json:"tool,omitempty"`   // apt, dnf or zypper
	Repo   string   `json:"repo,omitempty"`   // URL of the repository
	Asked  []string `json:"asked,omitempty"`  // packages of Added that were asked for by name
	Added  []string `json:"added,omitempty"`  // packages that were not there before
	Files  []File   `json:"files,omitempty"`
}

// File is a file that this program wrote in the container.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Empty reports whether there is nothing that Remove could take away.
func (in Installed) Empty() bool { return len(in.Added) == 0 && len(in.Files) == 0 }

// Name says what Remove would take away, as far as it got, in the singular.
func (in Installed) Name() string {
	switch {
	case in.Release != "":
		return "CUDA toolkit " + in.Release
	case in.OK && name("", in.Packages) == containerToolkit:
		return containerToolkit
	case in.OK:
		return "what cuda.packages brought"
	case slices.ContainsFunc(in.Added, func(n string) bool { return n != keyringPackage }):
		return "an unfinished installation of " + name(in.Toolkit, in.Packages)
	}
	return "the setup for CUDA packages that were not installed"
}

// addedForm is the form of a name in Added: apt sets another architecture
// than the container's behind a colon.
var addedForm = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(:[a-z0-9-]{1,32})?$`)

// ourFiles are all files that this package may write in a container.
var ourFiles = []string{pinFile, ownList, profileFile, dnfRepoFile, zypperRepoFile}

// sane reports whether a record is one that Install could have made. The record
// lies in the container, whose root can write there what it likes.
func (in Installed) sane() bool {
	notAdded := func(n string) bool { return !addedForm().MatchString(n) }
	notOurs := func(f File) bool { return !slices.Contains(ourFiles, f.Path) }
	for _, s := range append([]string{in.RepoURL, in.Version, in.Distro, in.Repo}, in.Packages...) {
		if say.Clean(s, 500) != s {
			return false
		}
	}
	return !slices.ContainsFunc(in.Added, notAdded) && !slices.ContainsFunc(in.Asked, notAdded) &&
		!slices.ContainsFunc(in.Files, notOurs) && len(in.Added) < 5000 && len(in.Files) <= len(ourFiles) &&
		(in.Toolkit == "" || in.Toolkit == cudapkg.Auto || cudapkg.IsRelease(in.Toolkit)) && (in.Release == "" || cudapkg.IsRelease(in.Release)) &&
		(in.Nvcc == "" || in.Nvcc == nvccPath(in.Release)) && (in.Driver == "" || validDriver(in.Driver)) &&
		slices.Contains([]string{"", toolApt, toolDnf, toolZypper}, in.Tool)
}

func validDriver(v version.Driver) bool {
	_, err := version.Parse(string(v))
	return err == nil
}

// Current reports whether the container has what w wants, going by the record in
// of an earlier Install. It starts no process and reads no file: it looks at
// the names and sizes of nvcc and of the files that Install wrote. why says what differs.
func Current(c Container, in Installed, w Want) (ok bool, why string) {
	switch {
	case !in.sane():
		return false, "the record of the toolkit is damaged"
	case in.Empty() && !in.OK && w.Toolkit == "" && len(w.Packages) > 0:
		return false, "packages are missing: " + strings.Join(w.Packages, ", ")
	case in.Empty() && !in.OK:
		return false, "no toolkit is installed"
	case !in.OK:
		return false, "the last installation of the toolkit did not come to its end"
	case in.Toolkit != w.Toolkit:
		return false, fmt.Sprintf("toolkit %s is wanted, %s is recorded", orNone(w.Toolkit), orNone(in.Toolkit))
	case !sameSet(in.Packages, w.Packages):
		return false, "other packages are wanted"
	case in.RepoURL != w.RepoURL:
		return false, "another repository is wanted"
	case w.Toolkit == cudapkg.Auto && in.Driver != w.Driver:
		return false, fmt.Sprintf("the toolkit was chosen for driver %s, the driver is %s", in.Driver, w.Driver)
	}
	if in.Release != "" {
		if _, err := checkDriver(available{Release: in.Release}, w.Driver); err != nil {
			return false, err.Error()
		}
	}
	files := slices.Clone(in.Files)
	if in.Nvcc != "" {
		files = append(files, File{Path: in.Nvcc, Size: in.NvccSize})
	}
	for _, f := range files {
		info, err := c.Stat(f.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, f.Path + " is missing"
		case err != nil:
			return false, err.Error()
		case !info.Mode.IsRegular() || info.Size != f.Size:
			return false, f.Path + " has changed"
		}
	}
	return true, ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
