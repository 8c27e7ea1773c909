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
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Blocker is a reason why the run file must not or cannot be installed in a
// container, with what to do about it.
type Blocker struct {
	Reason string `json:"reason"`
	Hint   string `json:"hint"` // VMID in it stands for the container's

	Packages []string       `json:"packages,omitempty"` // of the driver, from the distribution
	Version  version.Driver `json:"version,omitempty"`  // that Packages bring, "" when it is not known
	Guess    bool           `json:"guess,omitempty"`    // rpm was not asked
}

// packaged is the Blocker for driver packages, which remove (a command line)
// takes away.
func packaged(names []string, v version.Driver, remove string) Blocker {
	some := strings.Join(names[:min(len(names), 6)], ", ")
	if more := len(names) - 6; more > 0 {
		some += fmt.Sprintf(" and %d more", more)
	}
	return Blocker{
		Reason: "distribution packages of the driver are installed: " + some,
		Hint: "pve-nvidia-hook apply VMID --replace-packages removes them and puts the host's driver in their place; by hand in the container: " +
			remove + " " + strings.Join(names, " "),
		Packages: names,
		Version:  v,
	}
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
			Reason: "the container has no /bin/sh, which NVIDIA's installer needs",
			Hint:   "use a container image with a shell and glibc, such as Debian or Ubuntu",
		}}
	}
	// nvidia-installer refuses to work without these, whatever its options.
	if missing := Missing(c, "ldconfig", "grep", "dmesg", "tail"); len(missing) > 0 {
		found = append(found, Blocker{
			Reason: "NVIDIA's installer needs " + strings.Join(missing, ", ") + " in the container",
			Hint:   "install the packages that hold them: libc-bin, grep, util-linux and coreutils on Debian",
		})
	}
	if b := mounted(c); b != nil {
		found = append(found, *b)
	}
	if b := inTheWay(c, arch); b != nil {
		found = append(found, *b)
	}
	return found
}

// SharedBlockers looks for what keeps a container from using the shared driver:
// less than Blockers, since no installer runs.
func SharedBlockers(c *lxc.Container, arch string) []Blocker {
	if b := libc(c, arch); b != nil {
		return []Blocker{*b}
	}
	var found []Blocker
	if len(Missing(c, "ldconfig")) > 0 {
		found = append(found, Blocker{Reason: "the container has no ldconfig", Hint: "install the package that holds it: libc-bin on Debian, glibc on Fedora"})
	}
	for _, look := range []*Blocker{mounted(c), inTheWay(c, arch)} {
		if look != nil {
			found = append(found, *look)
		}
	}
	return found
}

// inTheWay finds a driver that packages have installed.
func inTheWay(c *lxc.Container, arch string) *Blocker {
	if b := distroPackages(c); b != nil {
		return b
	}
	if _, err := c.Lstat("/usr/lib/nvidia/alternate-install-present"); err == nil {
		return &Blocker{
			Reason: "another installation method has claimed this container (/usr/lib/nvidia/alternate-install-present)",
			Hint:   "remove the driver packages that put this file there",
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
		Reason: fmt.Sprintf("files of the host's driver are mounted into the container, the first of %d is %s", len(points), say.Clean(points[0], 300)),
		Hint:   "take their lxc.mount.entry lines, or the nvidia hook (lxc.hook.mount), out of its configuration and restart it; or leave the driver to them and set enabled = false",
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
				Reason: fmt.Sprintf("driver %s is in the container, but no run file installed it, so probably packages did", cmp.Or(found.CUDA, found.NVML)),
				Hint:   "see which with rpm -qf /usr/lib64/" + nvmlLink + " in the container, and remove them first",
				Guess:  true,
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
			Reason: "the container's C library is musl (Alpine), NVIDIA's driver needs glibc",
			Hint:   "use a Debian, Ubuntu or other glibc container for GPU work",
		}
	}
	return &Blocker{
		Reason: "the container has no glibc loader " + loader + ", which NVIDIA's driver needs",
		Hint:   "use a glibc container of the host's architecture, such as Debian or Ubuntu",
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

// distroPackages finds installed driver packages, by the package manager's own
// files. Those of rpm are a database that only rpm reads: see byRPM.
func distroPackages(c *lxc.Container) *Blocker {
	var names []string
	var v version.Driver
	remove := "apt-get purge --autoremove" // what came with them, such as glx-diversions, goes too
	if f, err := c.OpenFile(dpkgStatus); err == nil {
		defer f.Close()
		names, v = dpkgDriverPackages(io.LimitReader(f, statusLimit))
	} else if local, err := c.ReadDir("/var/lib/pacman/local", 20000); err == nil {
		names, remove = pacmanDriverPackages(local), "pacman -Rs"
	}
	if len(names) == 0 {
		return nil
	}
	b := packaged(names, v, remove)
	return &b
}

// pacmanDriverPackages reads them from the names of pacman's folders:
// NAME-VERSION-RELEASE.
func pacmanDriverPackages(names []string) []string {
	var found []string
	for _, name := range names {
		parts := strings.Split(name, "-")
		name = strings.Join(parts[:max(0, len(parts)-2)], "-")
		if driverPackage(name) && !slices.Contains(found, name) && len(found) < maxPackages {
			found = append(found, name)
		}
	}
	return found
}

// maxPackages is how many packages are named: Debian's whole driver has some 50.
const maxPackages = 100

// dpkgDriverPackages reads from dpkg's status file which driver packages are
// installed, and the driver's version by that of the package with libcuda.
func dpkgDriverPackages(r io.Reader) (found []string, v version.Driver) {
	var name string
	counts := false
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if rest, ok := strings.CutPrefix(string(line), "Package: "); ok {
			name, counts = strings.TrimSpace(rest), false
		} else if rest, ok := strings.CutPrefix(string(line), "Status: "); ok {
			// "install ok installed", "hold ok unpacked"; "deinstall ok
			// config-files" has no files left.
			state := strings.Fields(rest)
			counts = len(state) == 3 && state[2] != "config-files" && state[2] != "not-installed" && driverPackage(name)
			if counts && !slices.Contains(found, name) { // as it is when there for two architectures
				found = append(found, name)
			}
		} else if rest, ok := strings.CutPrefix(string(line), "Version: "); ok && counts && (name == "libcuda1" || strings.HasPrefix(name, "libnvidia-compute-")) {
			upstream, _, _ := strings.Cut(strings.TrimSpace(rest), "-") // 550.163.01-2
			v, _ = version.Parse(upstream)
		}
		if err != nil && err != bufio.ErrBufferFull || len(found) >= maxPackages {
			return found, v
		}
	}
}
