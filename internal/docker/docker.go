// Package docker sets NVIDIA's Container Toolkit up for the container engines in a
// running container, and keeps its CDI specification in line with the driver there.
// All work is done by the toolkit's own nvidia-ctk; what the user has written into
// the engines' configuration stays.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Container is what this package needs of a running container; *lxc.Container has it.
type Container interface {
	Stat(name string) (lxc.Info, error)
	ReadDir(name string, most int) ([]string, error)
	ReadFile(name string, limit int64) ([]byte, error)
	WriteFile(name string, data []byte, mode fs.FileMode) error
	MkdirAll(name string, mode fs.FileMode) error
	Remove(name string) error
	Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error)
	Privileged() bool
}

// Log takes what the package has to say while it works.
type Log interface {
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
}

// Package brings the toolkit and what it needs. NVIDIA's CUDA repositories have it
// since 1.13.0, beside the repository of its own.
const Package = cudapkg.ContainerToolkit

const (
	ctk = "/usr/bin/nvidia-ctk" // where all of NVIDIA's packages put it

	// ctkLimit is for one call of it, which takes some 0.1 s, or as long as the
	// driver takes to answer.
	ctkLimit = 90 * time.Second
)

// Installed says what Setup has done in a container. The caller keeps it.
type Installed struct {
	OK        bool           `json:"ok"`
	Driver    version.Driver `json:"driver,omitempty"`     // for which the CDI specification was made; "": none was
	Engines   []string       `json:"engines,omitempty"`    // docker, podman
	Runtime   bool           `json:"runtime,omitempty"`    // Docker's runtime nvidia is of our making
	NoCgroups bool           `json:"no_cgroups,omitempty"` // so is no-cgroups = true
	CDI       bool           `json:"cdi,omitempty"`        // so is the file CDIFile
}

// Present reports whether the toolkit is in the container.
func Present(c Container) bool { return isFile(c, ctk) }

// Engines lists the container engines that are there and that this package knows.
func Engines(c Container) []string {
	var found []string
	for _, e := range []struct{ name, program string }{{"docker", "dockerd"}, {"podman", "podman"}} {
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin"} {
			if isFile(c, path.Join(dir, e.program)) {
				found = append(found, e.name)
				break
			}
		}
	}
	return found
}

func isFile(c Container, name string) bool {
	info, err := c.Stat(name)
	return err == nil && info.Mode.IsRegular()
}

// Job is what Setup is to do.
type Job struct {
	Driver version.Driver // that is installed
	GPU    bool           // nvidia-smi has answered: a CDI specification can be made
	Had    Installed      // what an earlier run has done
	Log    Log
}

// Setup configures the engines that are there for the toolkit, which is there
// already. The caller keeps what it returns, after an error too. It can be called again
// at any time, and changes only what is not as it should be.
func Setup(ctx context.Context, c Container, j Job) (Installed, error) {
	in := j.Had
	in.OK, in.Engines = false, Engines(c)
	if !Present(c) {
		return in, hint.Errorf("see docker.toolkit below [docker]", "NVIDIA's Container Toolkit is not in the container: there is no %s", ctk)
	}
	if !c.Privileged() {
		set, err := setNoCgroups(c, true)
		in.NoCgroups = in.NoCgroups || set
		if err != nil {
			return in, err
		}
	}
	if slices.Contains(in.Engines, "docker") { // podman reads CDI specifications, and needs no more
		added, err := addRuntime(ctx, c)
		in.Runtime = in.Runtime || added
		if err != nil {
			return in, err
		}
	}
	if len(in.Engines) == 0 {
		j.Log.Infof("the container has neither Docker nor podman yet: the toolkit is set up for them at the next start after they are installed")
	}
	if !j.GPU {
		j.Log.Infof("no CDI specification is made, since nvidia-smi was not run")
		in.OK = true
		return in, nil
	}
	made, err := makeCDI(ctx, c, j)
	in.CDI = in.CDI || made
	if err != nil {
		return in, err
	}
	in.Driver, in.OK = j.Driver, true
	return in, nil
}

// Current says whether all is as Setup has left it, from files alone, or why not.
func Current(c Container, had Installed, driver version.Driver) (ok bool, why string) {
	engines := Engines(c)
	switch stale := Stale(c, driver); {
	case !had.OK:
		return false, "NVIDIA's Container Toolkit is not set up yet"
	case !Present(c):
		return false, "NVIDIA's Container Toolkit is no longer in the container"
	case !c.Privileged() && NoCgroupsMissing(c):
		return false, noCgroups + " is not set in " + configFile
	case slices.Contains(engines, "docker") && !hasRuntime(c):
		return false, "Docker has no runtime nvidia in " + daemonFile
	case len(stale) > 0:
		return false, stale[0] + " is of another driver"
	case had.Driver != "" && !isFile(c, CDIFile):
		return false, CDIFile + " is gone"
	}
	return true, ""
}

// Undo takes back what Setup has done; the packages are not its matter.
func Undo(ctx context.Context, c Container, had Installed) error {
	var failed []error
	if had.CDI {
		failed = append(failed, c.Remove(CDIFile))
	}
	if had.Runtime {
		failed = append(failed, removeRuntime(ctx, c))
	}
	if had.NoCgroups {
		_, err := setNoCgroups(c, false)
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// run runs a program of the container. What it complains of is in the error.
func run(ctx context.Context, c Container, argv ...string) (string, error) {
	res, err := c.Run(ctx, lxc.Cmd{Args: argv, Env: []string{"LC_ALL=C", "HOME=/root"}, Timeout: ctkLimit, Keep: 1 << 20})
	if err != nil {
		return "", err
	}
	if res.Code != 0 {
		return "", fmt.Errorf("%s: exit status %d: %s", strings.Join(argv, " "), res.Code, complaint(res))
	}
	return string(res.Stdout), nil
}

// complaint is the last error that nvidia-ctk logs, by msg="..." of its lines.
func complaint(res lxc.Result) string {
	last := res.LastLine()
	if _, msg, ok := strings.Cut(last, `level=error msg="`); ok {
		return strings.TrimSuffix(msg, `"`)
	}
	return last
}
