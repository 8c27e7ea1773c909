// Package cuda installs NVIDIA's CUDA toolkit in a running container from
// NVIDIA's package repository for the container's operating system. It never
// lets a package of the driver in: the driver comes from the host's run file.
package cuda

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Container is what this package needs of a running container; *lxc.Container has it.
type Container interface {
	Stat(name string) (lxc.Info, error)
	ReadDir(name string, most int) ([]string, error)
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
	// Capability is the lowest compute capability of the container's GPUs, such as
	// "6.1", and limits "auto"; "" when it is not known. Current does not look at
	// it: no file tells it, and nvidia-smi is a process.
	Capability string
	Arch       string        // x86_64 or aarch64
	Proxy      string        // http(s) proxy URL when the environment names none
	Timeout    time.Duration // for all of Install or Remove; 0: 30 minutes

	NetworkWait time.Duration // how long to wait for network and repository; 0: 2 minutes
	LockWait    time.Duration // how long to wait for another apt, dpkg or zypper; 0: 5 minutes

	// Had is what the record says an earlier run put into this container.
	Had Installed
	// Save, when set, is called before and after each change of the container
	// with what is (about to be) there, so that a run that is killed leaves a
	// note of it. An error of Save ends Install before the change.
	Save func(Installed) error

	step time.Duration                                                        // first pause between two tries; 0: 1 second
	dial func(ctx context.Context, network, address string) (net.Conn, error) // of the host's requests; nil: net.Dialer's
}

// None reports whether nothing is wanted.
func (w Want) None() bool { return w.Toolkit == "" && len(w.Packages) == 0 }

const containerToolkit = "NVIDIA's Container Toolkit"

// Name says in the singular what is wanted.
func (w Want) Name() string { return name(w.Toolkit, w.Packages) }

func name(toolkit string, packages []string) string {
	switch {
	case toolkit != "":
		return "the CUDA toolkit"
	case len(packages) == 1 && bareNames(packages)[0] == cudapkg.ContainerToolkit:
		return containerToolkit
	}
	return "what cuda.packages names"
}

// diskHint is a hint for a disk that is full.
func (w Want) diskHint() string {
	if w.Toolkit == "" {
		return "give the container a larger disk"
	}
	return "give the container a larger disk, or ask for parts of the toolkit: packages = [\"cuda-nvcc-12-8\", \"cuda-cudart-dev-12-8\"] and toolkit = \"\""
}

// checkPackages says whether names can stand as further packages. They come from
// the configuration, or from the container's record.
func checkPackages(names []string) error {
	for _, n := range names {
		if wrong := cudapkg.Wrong(n); wrong != "" {
			return hint.Errorf("correct cuda.packages; parts of the toolkit without driver are cuda-nvcc-X-Y and its kin", "%q %s", say.Clean(n, 80), wrong)
		}
	}
	return nil
}

// Install brings the toolkit and packages of w into the container, or brings
// what an earlier run installed into line with w. It changes nothing when all is there.
//
// What it returns is to be recorded, after an error too: it then names what was
// put there so far, for the next run and for Remove.
func Install(ctx context.Context, c Container, w Want, log Log) (Installed, error) {
	j, cancel := newJob(ctx, c, w, log)
	defer cancel()
	err := j.install(j.ctx)
	return j.in, j.explain(err)
}

func (j *job) install(ctx context.Context) error {
	w := j.w
	if err := checkPackages(w.Packages); err != nil {
		return err
	}
	if w.Toolkit != "" && w.Toolkit != cudapkg.Auto {
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
	if w.Proxy != "" && j.proxyInside() == "" {
		j.log.Warnf("the package tool in the container is not told the http_proxy of datacenter.cfg, which holds a password or is not a URL: where it needs a proxy, set it in the container (%s)",
			map[string]string{toolApt: "Acquire::http::Proxy in /etc/apt/apt.conf.d", toolDnf: "proxy in /etc/dnf/dnf.conf", toolZypper: "/etc/sysconfig/proxy"}[d.Tool])
	}
	j.in.OK = false
	j.in.Toolkit, j.in.Packages, j.in.RepoURL, j.in.Driver = w.Toolkit, w.Packages, w.RepoURL, w.Driver
	j.in.Distro, j.in.Tool, j.in.Repo = d.Folder, d.Tool, repo
	m := j.manager()

	// The pin comes first: from the moment that the package tool knows the
	// repository no package of the driver can come in, not by anyone's upgrade either.
	j.in.Files = slices.DeleteFunc(j.in.Files, func(f File) bool { return f.Path == pinFile }) // older versions had it there
	if err := Pin(j.c); err != nil {
		return err
	}
	if err := m.setup(ctx); err != nil {
		return err
	}
	names := slices.Clone(w.Packages)
	release := ""
	if w.Toolkit != "" {
		have, err := m.toolkits(ctx)
		if err != nil {
			return err
		}
		chosen, err := choose(w.Toolkit, w.Driver, w.Capability, have)
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
		if w.Toolkit == cudapkg.Auto && len(compiling(w.Capability, have)) < len(have) {
			j.log.Infof("auto leaves out CUDA toolkit %s and newer: they need GPUs of compute capability %s, the container has one of %s", firstTuring, turing, w.Capability)
		}
		release = chosen.Release
		names = append([]string{toolkitPackage(release)}, names...)
	}
	if err := j.installPackages(ctx, m, names); err != nil {
		return err
	}
	j.in.Release, j.in.Version, j.in.Nvcc, j.in.NvccSize = "", "", "", 0
	if release != "" {
		if err := j.verify(ctx, m, release); err != nil {
			return err
		}
		if err := j.writeFile(profileFile, profileText(release)); err != nil {
			return err
		}
	} else if err := j.removeFile(profileFile); err != nil {
		return err
	}
	if keep := append(bareNames(names), keyringPackage); len(j.stale(keep)) > 0 {
		if err := j.removeUnneeded(ctx, m, keep); err != nil {
			return err
		}
	}
	if err := j.checkComplete(ctx, m, names); err != nil {
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
		return fmt.Errorf("the record names the package tool %q, which this program does not know", say.Clean(j.in.Tool, 40))
	}
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := j.removeUnneeded(ctx, m, nil); err != nil {
		return err
	}
	if len(j.in.Added) > 0 {
		j.log.Infof("these packages stay, something else in the container needs them: %s", shortList(j.in.Added))
	}
	if err := m.end(ctx); err != nil {
		return err
	}
	for _, f := range slices.Clone(j.in.Files) {
		if err := j.removeFile(f.Path); err != nil {
			return err
		}
	}
	return nil
}
