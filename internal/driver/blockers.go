package driver

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Blocker is a reason why the run file must not or cannot be installed in a
// container, with what to do about it.
type Blocker struct {
	Reason string `json:"reason"`
	Hint   string `json:"hint"`
}

// Blockers looks for what stands in the way, without starting a process in the
// container.
func Blockers(c *lxc.Container, arch string) []Blocker {
	var found []Blocker
	if b := libc(c, arch); b != nil {
		// Without glibc nothing else matters.
		return []Blocker{*b}
	}
	if !executable(c, "/bin/sh") {
		return []Blocker{{
			"the container has no /bin/sh, which NVIDIA's installer needs",
			"use a container image with a shell and glibc, such as Debian or Ubuntu",
		}}
	}
	// nvidia-installer refuses to work without these, whatever its options.
	if missing := Missing(c, "ldconfig", "grep", "dmesg", "tail"); len(missing) > 0 {
		found = append(found, Blocker{
			"NVIDIA's installer needs " + strings.Join(missing, ", ") + " in the container",
			"install the packages that hold them: libc-bin, grep, util-linux and coreutils on Debian",
		})
	}
	if b := mounted(c); b != nil {
		found = append(found, *b)
	}
	if b := packaged(c, arch); b != nil {
		found = append(found, *b)
	}
	return found
}

// packaged finds a driver that packages have installed.
func packaged(c *lxc.Container, arch string) *Blocker {
	if names := distroPackages(c); len(names) > 0 {
		return &Blocker{
			"distribution packages of the driver are installed: " + strings.Join(names, ", "),
			"remove them in the container first (apt-get purge " + strings.Join(names, " ") + "), they and the run file overwrite each other's files",
		}
	}
	if _, err := c.Lstat("/usr/lib/nvidia/alternate-install-present"); err == nil {
		return &Blocker{
			"another way of installing the driver claims this container (/usr/lib/nvidia/alternate-install-present)",
			"remove the driver packages that put this file there",
		}
	}
	return byRPM(c, arch)
}

// mounted finds a user space that is mounted over the container's files from
// the host, by lxc.mount.entry lines or by LXC's hook for libnvidia-container:
// it cannot be replaced from within.
func mounted(c *lxc.Container) *Blocker {
	points, err := c.MountPoints()
	if err != nil {
		return nil // the container is gone, or the installation will tell
	}
	points = slices.DeleteFunc(points, func(point string) bool { return !ours(point) })
	if len(points) == 0 {
		return nil
	}
	return &Blocker{
		fmt.Sprintf("files of the host's driver are mounted into the container, the first of %d is %s", len(points), say.Clean(points[0], 300)),
		"take their lxc.mount.entry lines, or the nvidia hook (lxc.hook.mount), out of its configuration and restart it; or leave the driver to them and set enabled = false",
	}
}

// byRPM finds a driver that neither a run file (its log would tell) nor dpkg or
// pacman has installed, in a container with rpm, whose database only rpm reads.
func byRPM(c *lxc.Container, arch string) *Blocker {
	found := Look(c, arch)
	if found.CUDA == "" && found.NVML == "" || found.Log != "" {
		return nil
	}
	for _, file := range []string{record.Path, dpkgStatus} {
		if _, err := c.Lstat(file); err == nil {
			return nil // it is ours, or dpkg knows better
		}
	}
	for _, database := range []string{"/usr/lib/sysimage/rpm", "/var/lib/rpm"} {
		if names, err := c.ReadDir(database, 1000); err == nil && len(names) > 0 {
			return &Blocker{
				fmt.Sprintf("driver %s is in the container and no run file has put it there, so most likely packages did", cmp.Or(found.CUDA, found.NVML)),
				"see which with rpm -qf /usr/lib64/" + nvmlLink + " in the container, and remove them first",
			}
		}
	}
	return nil
}

func libc(c *lxc.Container, arch string) *Blocker {
	loader := map[string]string{"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}[arch]
	if _, err := c.Stat(loader); err == nil {
		return nil
	}
	if _, err := c.Stat("/lib/ld-musl-" + arch + ".so.1"); err == nil {
		return &Blocker{
			"the container's C library is musl (Alpine), NVIDIA's driver needs glibc",
			"use a Debian, Ubuntu or other glibc container for GPU work",
		}
	}
	return &Blocker{
		"the container has no glibc loader " + loader + ", which NVIDIA's driver needs",
		"use a glibc container of the host's architecture, such as Debian or Ubuntu",
	}
}

// Missing returns those of the named commands that are not in the container.
func Missing(c *lxc.Container, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(strings.Split(lxc.Path, ":"), func(dir string) bool {
			return executable(c, path.Join(dir, name))
		})
	})
}

func executable(c *lxc.Container, name string) bool {
	info, err := c.Stat(name)
	return err == nil && info.Mode.IsRegular() && info.Mode&0o111 != 0
}

// driverPackage tells the packages of the driver. Names of a package's form
// alone are taken: they are shown in a command that a person may paste.
func driverPackage(name string) bool { return cudapkg.IsName(name) && cudapkg.IsDriver(name) }

const dpkgStatus = "/var/lib/dpkg/status"

const statusLimit = 64 << 20 // bytes of dpkg's status file that are read; Debian with everything has some 40 MB

// distroPackages names installed driver packages, by the package manager's own
// files. Those of rpm are a database that only rpm reads: see byRPM.
func distroPackages(c *lxc.Container) []string {
	if f, err := c.OpenFile(dpkgStatus); err == nil {
		defer f.Close()
		return dpkgDriverPackages(io.LimitReader(f, statusLimit))
	}
	names, err := c.ReadDir("/var/lib/pacman/local", 20000)
	if err != nil {
		return nil
	}
	return pacmanDriverPackages(names)
}

// pacmanDriverPackages reads them from the names of pacman's folders:
// NAME-VERSION-RELEASE.
func pacmanDriverPackages(names []string) []string {
	var found []string
	for _, name := range names {
		parts := strings.Split(name, "-")
		name = strings.Join(parts[:max(0, len(parts)-2)], "-")
		if driverPackage(name) && !slices.Contains(found, name) && len(found) < packagesMost {
			found = append(found, name)
		}
	}
	return found
}

// packagesMost is how many packages are named: a genuine container has a handful.
const packagesMost = 20

func dpkgDriverPackages(r io.Reader) []string {
	var found []string
	var name string
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if rest, ok := strings.CutPrefix(string(line), "Package: "); ok {
			name = strings.TrimSpace(rest)
		} else if rest, ok := strings.CutPrefix(string(line), "Status: "); ok {
			// "install ok installed", "hold ok unpacked"; "deinstall ok
			// config-files" has no files left.
			state := strings.Fields(rest)
			if len(state) == 3 && state[2] != "config-files" && state[2] != "not-installed" && driverPackage(name) &&
				!slices.Contains(found, name) { // as it is when there for two architectures
				found = append(found, name)
			}
		}
		if err != nil && err != bufio.ErrBufferFull || len(found) >= packagesMost {
			return found
		}
	}
}
