package cuda

import (
	"context"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
)

const dnfRepoFile = "/etc/yum.repos.d/" + rpmRepoID + ".repo"

// dnf is dnf 4 or 5 of Red Hat's kin, Fedora and Amazon Linux at work for a job.
type dnf struct{ *job }

func (d *dnf) command(verb string, more ...string) []string {
	return append([]string{"dnf", verb, "-y", "--setopt=install_weak_deps=False", "--setopt=retries=3", "--setopt=timeout=20"}, more...)
}

// only lets a command see no repository but NVIDIA's.
func (d *dnf) only() []string { return []string{"--disablerepo=*", "--enablerepo=" + rpmRepoID} }

// modular reports whether the repository has the driver as a module, which
// would hide or bring packages besides excludepkgs.
func (d *dnf) modular() bool { return d.distro.Folder == "rhel8" || d.distro.Folder == "rhel9" }

func (d *dnf) prepare(ctx context.Context) error {
	key, err := d.keyName(ctx)
	if err != nil {
		return err
	}
	if err := d.put(dnfRepoFile, rpmRepoText(d.repo, key, cudapkg.RPMDriver)); err != nil {
		return err
	}
	err = d.retry(ctx, lists, func() (bool, error) {
		out, err := d.run(ctx, d.command("makecache", d.only()...)...)
		if err != nil {
			return false, err
		}
		return true, must(out, nil, "dnf makecache")
	})
	if err != nil || !d.modular() {
		return err
	}
	out, err := d.run(ctx, d.command("module", "disable", "nvidia-driver")...)
	if err == nil && out.code != 0 {
		d.log.Debugf("dnf module disable nvidia-driver: %s", out.tail(2))
	}
	return err
}

func (d *dnf) toolkits(ctx context.Context) ([]available, error) {
	out, err := d.run(ctx, d.command("repoquery", append(d.only(), "-q", "--qf", "%{name} %{version}\\n", "cuda-toolkit-*")...)...)
	if err := must(out, err, "dnf repoquery"); err != nil {
		return nil, err
	}
	return parseRepoquery(string(out.stdout)), nil
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

// parseDnf reads the table of a transaction that dnf prints before it asks. A
// package's line begins with one space; a long one goes on in the next line, which begins with more.
func parseDnf(text string) plan {
	var p plan
	var into *[]string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
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

func (d *dnf) install(ctx context.Context, names []string) error {
	asked := bareNames(names)
	names = rpmNames(names)
	out, err := d.run(ctx, append([]string{"dnf", "install", "--assumeno", "--setopt=install_weak_deps=False"}, names...)...)
	if err != nil {
		return err
	}
	p := parseDnf(string(out.stdout))
	if p.empty() && out.code != 0 { // 1 is also how "no" ends
		if name, ok := driverIn(out.lines); ok {
			return refuseDriver(name, names, out.tail(4))
		}
		return must(out, nil, "dnf install --assumeno")
	}
	if err := judgeRPM(p, names); err != nil || p.empty() {
		return err
	}
	if err := d.note(p.fresh, asked); err != nil {
		return err
	}
	out, err = d.run(ctx, d.command("install", names...)...)
	return must(out, err, "dnf install")
}

func (d *dnf) prune(ctx context.Context, names []string) error {
	keep := bareNames(names)
	stale := slices.DeleteFunc(slices.Clone(d.in.Asked), func(n string) bool { return slices.Contains(keep, n) })
	if len(stale) == 0 {
		return nil
	}
	return d.sweep(ctx, stale)
}

// sweep marks packages as there for others' sake and removes of what dnf would
// then clean away only what we brought.
func (d *dnf) sweep(ctx context.Context, stale []string) error {
	have, err := d.rpmInstalled(ctx, stale)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		out, err := d.run(ctx, append([]string{"dnf", "mark", "dependency"}, have...)...)
		if err == nil && out.code != 0 { // so dnf 5 has it; dnf 4 says
			out, err = d.run(ctx, append([]string{"dnf", "mark", "remove"}, have...)...)
		}
		if err := must(out, err, "dnf mark"); err != nil {
			return err
		}
	}
	out, err := d.run(ctx, "dnf", "autoremove", "--assumeno")
	if err != nil {
		return err
	}
	goners := slices.DeleteFunc(parseDnf(string(out.stdout)).remove, func(n string) bool { return !slices.Contains(d.in.Added, n) })
	if len(goners) > 0 {
		out, err := d.run(ctx, append(d.command("remove", "--setopt=clean_requirements_on_remove=False"), goners...)...)
		if err := must(out, err, "dnf remove"); err != nil {
			return err
		}
	}
	if d.in.Added, err = d.rpmInstalled(ctx, d.in.Added); err != nil {
		return err
	}
	d.in.Asked = slices.DeleteFunc(d.in.Asked, func(n string) bool { return slices.Contains(stale, n) })
	return d.save()
}

func (d *dnf) remove(ctx context.Context) error {
	if err := d.sweep(ctx, d.in.Asked); err != nil {
		return err
	}
	if !d.modular() {
		return nil
	}
	out, err := d.run(ctx, d.command("module", "reset", "nvidia-driver")...)
	if err == nil && out.code != 0 {
		d.log.Debugf("dnf module reset nvidia-driver: %s", out.tail(2))
	}
	return err
}
