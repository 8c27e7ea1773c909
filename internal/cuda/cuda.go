// Package cuda installs NVIDIA's CUDA toolkit in a running container from
// NVIDIA's package repository for the container's operating system. It never
// lets a package of the driver in: the driver comes from the host's run file.
package cuda

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Container is what this package needs of a running container; *lxc.Container has it.
type Container interface {
	Stat(name string) (lxc.Info, error)
	ReadDir(name string, most int) ([]string, error)
	OpenFile(name string) (*os.File, error)
	ReadFile(name string, limit int64) ([]byte, error)
	WriteFile(name string, data []byte, mode fs.FileMode) error
	CopyIn(ctx context.Context, r io.Reader, name string, mode fs.FileMode) (int64, error)
	MkdirAll(name string, mode fs.FileMode) error
	Remove(name string) error
	Free(name string) (uint64, error)
	Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error)
}

// Log takes what the package has to say while it works.
type Log interface {
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
	Debugf(format string, args ...any)
}

// Want is what a container shall have.
type Want struct {
	Toolkit  string         // a release such as "12.8", "auto", or "" for none
	Packages []string       // further packages
	RepoURL  string         // "": NVIDIA's for the container's OS; may hold {distro} and {arch}
	Driver   version.Driver // of the host; "" when it is not known
	Arch     string         // x86_64 or aarch64
	CacheDir string         // shared cache on the host, for NVIDIA's keyring package
	Proxy    string         // http(s) proxy URL when the environment names none
	Timeout  time.Duration  // for all of Install or Remove; 0: 30 minutes

	NetworkWait time.Duration // how long to wait for network and repository; 0: 2 minutes
	LockWait    time.Duration // how long to wait for another package tool; 0: 5 minutes

	// Had is what the record says an earlier run put into this container.
	Had Installed
	// Save, when set, is called before and after each change of the container
	// with what is (about to be) there, so that a run that is killed leaves a
	// note of it. An error of Save ends Install before the change.
	Save func(Installed) error

	step time.Duration // first pause between two tries; 0: 1 second
}

// None reports whether nothing is wanted.
func (w Want) None() bool { return w.Toolkit == "" && len(w.Packages) == 0 }

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

// addedForm is the form of a name in Added: apt sets another architecture
// than the container's behind a colon.
var addedForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(:[a-z0-9-]{1,32})?$`)

// ourFiles are all files that this package may write in a container.
var ourFiles = []string{pinFile, ownList, profileFile, dnfRepoFile, zypperRepoFile}

// sane reports whether a record is one that Install could have made. The record
// lies in the container, whose root can write there what it likes.
func (in Installed) sane() bool {
	notAdded := func(n string) bool { return !addedForm.MatchString(n) }
	notOurs := func(f File) bool { return !slices.Contains(ourFiles, f.Path) }
	for _, s := range append([]string{in.RepoURL, in.Version, in.Distro, in.Repo}, in.Packages...) {
		if printable(s, 500) != s {
			return false
		}
	}
	return !slices.ContainsFunc(in.Added, notAdded) && !slices.ContainsFunc(in.Asked, notAdded) &&
		!slices.ContainsFunc(in.Files, notOurs) && len(in.Added) < 5000 && len(in.Files) <= len(ourFiles) &&
		CheckToolkit(in.Toolkit) == nil && (in.Release == "" || releaseForm.MatchString(in.Release)) &&
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
	case w.None() && in.Empty():
		return true, ""
	case !in.sane():
		return false, "the record of the toolkit is damaged"
	case w.None():
		return false, "no toolkit is wanted any more"
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
	case w.Toolkit == Auto && in.Driver != w.Driver:
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

// packageForm is the form of a package name in all three package worlds, with
// the version that apt and dnf take behind it.
var packageForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(=[A-Za-z0-9][A-Za-z0-9+.:~_-]{0,127})?$`)

// CheckPackages says whether names can stand as further packages.
func CheckPackages(names []string) error {
	for _, n := range names {
		if !packageForm.MatchString(n) {
			return hint.Errorf("write a name such as nvtop or cuda-nvcc-12-8", "%q is no name of a package", printable(n, 80))
		}
		if IsDriver(n) {
			return hint.Errorf("take it out of cuda.packages; for a toolkit without driver there is cuda-toolkit-X-Y, for parts of it cuda-nvcc-X-Y and its kin",
				"package %s belongs to the NVIDIA driver, which comes from the host's run file", n)
		}
	}
	return nil
}

// Install brings the toolkit and packages of w into the container, or brings
// what an earlier run installed into line with w. It changes nothing when all is there.
//
// What it returns is to be recorded, after an error too: it then names what was
// put there so far, for the next run and for Remove. Wanted nothing, it removes what w.Had names.
func Install(ctx context.Context, c Container, w Want, log Log) (Installed, error) {
	if w.None() {
		return Remove(ctx, c, w.Had, w, log)
	}
	j, cancel := newJob(ctx, c, w, log)
	defer cancel()
	err := j.install(j.ctx)
	return j.in, j.explain(err)
}

func (j *job) install(ctx context.Context) error {
	w := j.w
	if err := errors.Join(CheckToolkit(w.Toolkit), CheckPackages(w.Packages)); err != nil {
		return err
	}
	if w.Toolkit != "" && w.Toolkit != Auto {
		if _, err := checkDriver(available{Release: w.Toolkit}, w.Driver); err != nil {
			return err
		}
	}
	o, err := readOS(j.c)
	if err != nil {
		return err
	}
	repo, d, err := repoURL(o, w.Arch, w.RepoURL)
	if err != nil {
		return err
	}
	j.log.Infof("CUDA packages for %s come from %s", o, repo)
	if !d.Served {
		j.log.Warnf("NVIDIA has no CUDA packages for %s: those for %s are used, as cuda.repo_url says", o, d.Folder)
	}
	j.distro, j.repo = d, repo
	j.in.OK = false
	j.in.Toolkit, j.in.Packages, j.in.RepoURL, j.in.Driver = w.Toolkit, w.Packages, w.RepoURL, w.Driver
	j.in.Distro, j.in.Tool, j.in.Repo = d.Folder, d.Tool, repo
	m := j.manager()

	if err := m.prepare(ctx); err != nil {
		return err
	}
	names := slices.Clone(w.Packages)
	release := ""
	if w.Toolkit != "" {
		have, err := m.toolkits(ctx)
		if err != nil {
			return err
		}
		chosen, err := choose(w.Toolkit, w.Driver, have)
		if err != nil {
			return err
		}
		note, err := checkDriver(chosen, w.Driver)
		if err != nil {
			return err
		}
		if note != "" {
			j.log.Warnf("%s", note)
		}
		release = chosen.Release
		names = append([]string{toolkitPackage(release)}, names...)
	}
	if err := m.install(ctx, names); err != nil {
		return err
	}
	j.in.Release, j.in.Version, j.in.Nvcc, j.in.NvccSize = "", "", "", 0
	if release != "" {
		if err := j.verify(ctx, release); err != nil {
			return err
		}
		if err := j.put(profileFile, profileText(release)); err != nil {
			return err
		}
	} else if err := j.drop(profileFile); err != nil {
		return err
	}
	if err := m.prune(ctx, names); err != nil {
		return err
	}
	j.in.OK = true
	return j.save()
}

// Remove takes away what in names: packages that were not there before and that
// nothing else needs by now, and files that still are as they were written. Of
// w it uses Arch, Timeout, LockWait and Save. It returns what is left; after
// success that is nothing.
func Remove(ctx context.Context, c Container, in Installed, w Want, log Log) (Installed, error) {
	w.Had = in
	j, cancel := newJob(ctx, c, w, log)
	defer cancel()
	if in.Empty() {
		return Installed{}, nil
	}
	if !in.sane() {
		return in, hint.Errorf("remove the packages cuda-* in the container yourself", "the container's record of the toolkit is damaged")
	}
	j.in.OK = false
	j.distro, j.repo = Distro{Folder: in.Distro, Tool: in.Tool}, in.Repo
	if err := j.remove(j.ctx); err != nil {
		return j.in, j.explain(err)
	}
	return Installed{}, nil
}

func (j *job) remove(ctx context.Context) error {
	m := j.manager()
	if m == nil {
		return fmt.Errorf("the record names the package tool %q, which this program does not know", printable(j.in.Tool, 40))
	}
	if err := m.remove(ctx); err != nil {
		return err
	}
	for _, f := range slices.Clone(j.in.Files) {
		if err := j.drop(f.Path); err != nil {
			return err
		}
	}
	return nil
}
