package cuda

import (
	"context"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// apt is apt and dpkg of Debian and Ubuntu at work for a job.
type apt struct{ *job }

// options of every apt-get: no recommended packages (they would be the driver),
// files that the user changed stay, fetched packages are not kept.
func (a *apt) options() []string {
	return []string{"-q", "--no-install-recommends",
		"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
		"-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20",
		"-o", "APT::Keep-Downloaded-Packages=false", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Color=0",
		"-o", "APT::AutoRemove::RecommendsImportant=false", "-o", "APT::AutoRemove::SuggestsImportant=false"}
}

// command is a command line of apt-get that acts without questions.
func (a *apt) command(verb string, more ...string) []string {
	return append(append([]string{"apt-get", verb, "-y"}, a.options()...), more...)
}

// look is one that must not act. It goes without -y, which overrules
// --assume-no, and without locks.
func (a *apt) look(verb, how string, more ...string) []string {
	return append(append([]string{"apt-get", verb, how, "-o", "Debug::NoLocking=1"}, a.options()...), more...)
}

func (a *apt) setup(ctx context.Context) error {
	all, err := a.sources()
	if err != nil {
		return err
	}
	owned, err := a.ownedLists(ctx)
	if err != nil {
		return err
	}
	ours := func(file string) bool { return file == ownList || slices.Contains(owned, file) }
	remarks, err := judgeSources(all, a.repo, ours)
	if err != nil {
		return err
	}
	for _, r := range remarks {
		a.log.Warnf("%s", r)
	}
	if err := a.ready(ctx); err != nil {
		return err
	}
	if err := a.keyring(ctx); err != nil {
		return err
	}
	if err := a.list(ctx); err != nil {
		return err
	}
	if err := a.update(ctx); err != nil {
		return err
	}
	return a.mend(ctx)
}

func (a *apt) toolkits(ctx context.Context) ([]available, error) {
	out, err := a.run(ctx, "apt-cache", "pkgnames", "cuda-toolkit-")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range strings.Fields(string(out.stdout)) {
		if toolkitName().MatchString(n) && len(names) < 200 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	// Names without a version that could be installed get no line.
	out, err = a.run(ctx, append([]string{"apt-cache", "madison"}, names...)...)
	if err != nil {
		return nil, err
	}
	return parseMadison(string(out.stdout)), nil
}

// parseMadison reads lines such as "cuda-toolkit-12-8 | 12.8.1-1 | https://... Packages".
func parseMadison(text string) []available {
	var pairs [][2]string
	for line := range strings.Lines(text) {
		if f := strings.Split(line, "|"); len(f) == 3 {
			pairs = append(pairs, [2]string{strings.TrimSpace(f[0]), strings.TrimSpace(f[1])})
		}
	}
	return collect(pairs)
}

func (a *apt) act(ctx context.Context, do action, names []string) error {
	if do == actRemove {
		return a.purge(ctx, names)
	}
	args := append(a.command("install", "--no-remove"), names...)
	if do == actReinstall {
		args = append(a.command("install", "--reinstall", "--no-remove"), names...)
	}
	out, err := a.change(ctx, args...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("the next run takes up where this one stopped", "apt-get install %s in the container: %s", strings.Join(names, ", "), out.tail(5))
	}
	return err
}
