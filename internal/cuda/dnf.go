package cuda

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

const dnfRepoFile = "/etc/yum.repos.d/" + rpmRepoID + ".repo"

// dnf is dnf 4 or 5 of Red Hat's kin, Fedora and Amazon Linux at work for a job.
type dnf struct{ rpm }

// options of every dnf: a repository of the user's that fails is no reason to stop, ours is.
func (d *dnf) command(verb string, more ...string) []string {
	args := []string{"dnf", verb, "--setopt=install_weak_deps=False", "--setopt=retries=3", "--setopt=timeout=20", "--setopt=*.skip_if_unavailable=1"}
	if d.repo != "" { // dnf 5 fails where it is not set up
		args = append(args, "--setopt="+rpmRepoID+".skip_if_unavailable=0")
	}
	return append(args, more...)
}

// only lets a command see no repository but NVIDIA's.
func (d *dnf) only(verb string, more ...string) []string {
	return d.command(verb, append([]string{"-y", "--disablerepo=*", "--enablerepo=" + rpmRepoID}, more...)...)
}

// without lets a command see no repository at all: what it needs is installed.
func (d *dnf) without(verb string, more ...string) []string {
	return append([]string{"dnf", verb, "-y", "--disablerepo=*"}, more...)
}

// modular reports whether the repository has the driver as a module, which
// would hide or bring packages besides excludepkgs.
func (d *dnf) modular() bool { return d.distro.Folder == "rhel8" || d.distro.Folder == "rhel9" }

// module disables or resets the driver's module.
func (d *dnf) module(ctx context.Context, command []string) error {
	if !d.modular() {
		return nil
	}
	out, err := d.run(ctx, command...)
	if err == nil && out.code != 0 {
		d.log.Debugf("%s: %s", strings.Join(command, " "), out.tail(2))
	}
	return err
}

func (d *dnf) setup(ctx context.Context) error {
	err := d.addRepo(ctx, dnfRepoFile, func() (output, error) { return d.run(ctx, d.only("makecache")...) })
	if err != nil {
		return err
	}
	return d.module(ctx, d.only("module", "disable", "nvidia-driver"))
}

func (d *dnf) end(ctx context.Context) error {
	return d.module(ctx, d.without("module", "reset", "nvidia-driver"))
}

func (d *dnf) toolkits(ctx context.Context) ([]available, error) {
	out, err := d.run(ctx, d.only("repoquery", "-q", "--qf", "%{name} %{version}\\n", "cuda-toolkit-*")...)
	if err == nil && out.code != 0 {
		err = d.failed("dnf repoquery", out)
	}
	return parseRepoquery(string(out.stdout)), err
}

func parseRepoquery(text string) []available {
	var pairs [][2]string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 {
			pairs = append(pairs, [2]string{f[0], f[1]})
		}
	}
	return collect(pairs)
}

// "Total download size: 3.0 G" and "Installed size: 7.9 G" of dnf 4, "Need to
// download 3 GiB." and "After this operation, 8 GiB extra will be used" of dnf 5.
var (
	dnfGet   = lazy.Regexp(`(?m)^Total download size: ([0-9.]+) ?([kMGT]?)`)
	dnfDisk  = lazy.Regexp(`(?m)^Installed size: ([0-9.]+) ?([kMGT]?)`)
	dnf5Get  = lazy.Regexp(`Need to download ([0-9.]+) ((?:[KMGT]i)?B)`)
	dnf5Disk = lazy.Regexp(`After this operation, ([0-9.]+) ((?:[KMGT]i)?B) extra`)
)

// "     replacing  libold.x86_64 1.0-1" of dnf 4, "   replacing libold x86_64 ..." of dnf 5
var dnfReplacing = lazy.Regexp(`^ +replacing +(\S+)`)

// dnfArch is what dnf 4 sets behind the name of a package that is replaced.
var dnfArch = lazy.Regexp(`\.(noarch|x86_64|aarch64|i[3-6]86)$`)

// parseDnf reads the table of a transaction that dnf prints before it asks. A
// package's line begins with one space; a long one goes on in the next line, which begins with more.
func parseDnf(text string) plan {
	var p plan
	var into *[]string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		old := dnfReplacing().FindStringSubmatch(line)
		switch {
		case old != nil && into != nil:
			// dnf 5 has such a line for each upgrade as well.
			if name := dnfArch().ReplaceAllString(old[1], ""); into == &p.fresh || !slices.Contains(*into, name) {
				p.remove = append(p.remove, name)
			}
		case strings.HasPrefix(line, "Installing"):
			into = &p.fresh
		case strings.HasPrefix(line, "Upgrading") || strings.HasPrefix(line, "Downgrading") || strings.HasPrefix(line, "Reinstalling"):
			into = &p.newer
		case strings.HasPrefix(line, "Removing"):
			into = &p.remove
		case !strings.HasPrefix(line, " "):
			into = nil
		case into != nil && len(line) > 1 && line[1] != ' ':
			if f := strings.Fields(line); len(f) > 0 {
				*into = append(*into, f[0])
			}
		}
	}
	return p
}

// parseSize finds the first of some forms of a size in a text, in bytes.
func parseSize(text string, forms ...func() *regexp.Regexp) uint64 {
	for _, re := range forms {
		if m := re().FindStringSubmatch(text); m != nil {
			return bytesOf(m[1], m[2])
		}
	}
	return 0
}

func (d *dnf) plan(ctx context.Context, names []string) (plan, error) {
	names = rpmNames(names)
	out, err := d.run(ctx, d.command("install", append([]string{"--assumeno"}, names...)...)...)
	if err != nil {
		return plan{}, err
	}
	p := parseDnf(string(out.stdout))
	said := strings.Join(out.lines, "\n") // dnf 5 tells the sizes on stderr
	p.fetch, p.disk = parseSize(said, dnfGet, dnf5Get), parseSize(said, dnfDisk, dnf5Disk)
	return d.planned("dnf install", names, out, out.code == 0 || !p.empty(), p) // 1 is also how "no" ends
}

func (d *dnf) act(ctx context.Context, do action, names []string) error {
	command := d.command(string(do), append([]string{"-y"}, rpmNames(names)...)...)
	if do == actRemove {
		command = d.without("remove", append([]string{"--setopt=clean_requirements_on_remove=False"}, names...)...)
	}
	out, err := d.change(ctx, command...)
	return d.changed(ctx, "dnf "+string(do)+" "+shortList(names), out, out.code == 0, err)
}

func (d *dnf) markWanted(ctx context.Context, names []string) error {
	out, err := d.run(ctx, append(d.without("mark", "user"), names...)...)
	if err == nil && out.code != 0 { // so dnf 5 has it; dnf 4 says
		out, err = d.run(ctx, append(d.without("mark", "install"), names...)...)
	}
	if err == nil && out.code != 0 {
		err = d.failed("dnf mark", out)
	}
	return err
}

// unneeded leaves alone what the user has asked dnf for since.
func (d *dnf) unneeded(ctx context.Context, keep []string) ([]string, error) {
	out, err := d.run(ctx, d.without("repoquery", "-q", "--userinstalled", "--qf", "%{name}\\n")...)
	if err != nil {
		return nil, err
	}
	if out.code != 0 {
		return nil, d.failed("dnf repoquery --userinstalled", out)
	}
	for _, n := range strings.Fields(string(out.stdout)) {
		if !slices.Contains(d.in.Asked, n) {
			keep = append(keep, n)
		}
	}
	return d.rpm.unneeded(ctx, keep)
}
