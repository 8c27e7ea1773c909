package cuda

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// rpmRepoID is the repository's name to dnf and zypper.
const rpmRepoID = "pve-nvidia-hook-cuda"

// rpm is what dnf and zypper have in common.
type rpm struct {
	*job
	keys []string // that rpm knew before
}

// gpgKey finds the key's file name in NVIDIA's .repo file: it differs from
// distribution to distribution (D42D0685.pub for RHEL 8 and 9, CDF6BA43.pub for RHEL 10).
var gpgKey = lazy.Regexp(`(?m)^gpgkey=(?:\S*/)?([A-Za-z0-9]{4,40}\.pub)\s*$`)

func parseKeyName(repoFile []byte) (string, error) {
	m := gpgKey().FindSubmatch(repoFile)
	if m == nil {
		return "", errors.New("names no gpgkey")
	}
	return string(m[1]), nil
}

// addRepo writes the .repo file, for which NVIDIA's own tells the name of the
// key. fetch loads the index.
func (r *rpm) addRepo(ctx context.Context, file string, fetch func() (output, error)) error {
	name := "cuda-" + r.distro.Folder + ".repo"
	data, err := r.fetch(ctx, r.repo+name, name, func(data []byte) error {
		_, err := parseKeyName(data)
		return err
	})
	if err != nil {
		return err
	}
	key, _ := parseKeyName(data)
	if r.keys, err = r.installed(ctx); err != nil {
		return err
	}
	if err := r.writeFile(file, rpmRepoText(r.repo, key)); err != nil {
		return err
	}
	err = r.fetchLists(ctx, func() (verdict, string, error) {
		out, err := fetch()
		if err != nil || out.code == 0 {
			return fine, "", err
		}
		v, about := judgeRPM(out)
		return v, about, nil
	})
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, r.noteKeys(ctx))
}

// rpmRepoText is a .repo file for dnf and zypper.
func rpmRepoText(repo, key string) string {
	return "# Written by pve-nvidia-hook.\n" +
		"[" + rpmRepoID + "]\n" +
		"name=NVIDIA CUDA\n" +
		"baseurl=" + repo + "\n" +
		"enabled=1\n" +
		"gpgcheck=1\n" +
		"gpgkey=" + repo + key + "\n"
}

// rpmCauses are what dnf 4 and 5, zypper and rpm say about the causes of a failure.
var rpmCauses = []cause{
	{busy, lockedOut},
	{lazy.Regexp(`No space left|more space needed|needs \S+ (more space )?on the |[Nn]ot enough (free )?(disk )?space`), noRoom},
	{lazy.Regexp(`GPG check FAILED|OpenPGP check for|wrong key|Signature verification failed|signed with an unknown key|is not (correctly )?signed|bad PGP signature`), badKey},
	{lazy.Regexp(`Curl error \((5|6|7|28|35|52|56)\)|Could(n't| not) (resolve|connect)|Connection (failed|refused|reset|timed out)|Timeout (exceeded|was reached)|No route to host|unreachable`), unreachable},
	{lazy.Regexp(`checksum doesn't match|wrong checksum|Digest verification failed|[Pp]arse error|Parsing unsuccessful|Status code: 4\d\d|error: 4\d\d|not found on medium|Valid metadata not found`), brokenIndex},
	{lazy.Regexp(`Problem\b.*:|Unable to find a match|No match for argument|No provider of|nothing provides|matches only excluded`), unsolvable},
}

// judgeRPM finds the cause among what a package tool said. about are the words,
// of a problem with dependencies all that belong to it.
func judgeRPM(o output) (v verdict, about string) {
	v, at := firstCause(rpmCauses, o.lines)
	if at < 0 {
		return v, o.tail(4)
	}
	end := at + 1
	for v == unsolvable && end < min(at+6, len(o.lines)) {
		l := o.lines[end]
		other, _ := firstCause(rpmCauses, []string{l})
		if !strings.HasPrefix(l, "  ") && !strings.HasPrefix(l, "not installable") && other != unsolvable {
			break
		}
		end++
	}
	return v, strings.Join(strings.Fields(strings.Join(o.lines[at:end], " ")), " ")
}

// failed is the error for what ended badly.
func (r *rpm) failed(what string, out output) error {
	v, about := judgeRPM(out)
	return r.blame(v, what, about)
}

// planned turns what a dry run said into its plan.
func (r *rpm) planned(what string, names []string, out output, good bool, p plan) (plan, error) {
	if good {
		return p, nil
	}
	if v, about := judgeRPM(out); v == unsolvable {
		if name, ok := driverIn(out.lines); ok {
			return p, refuseDriver(name, names, say.Clean(about, 400))
		}
	}
	return p, r.failed(what+" "+strings.Join(names, ", "), out)
}

// changed notes the keys that a command which changes packages has brought, and
// judges its end.
func (r *rpm) changed(ctx context.Context, what string, out output, good bool, err error) error {
	if ctx.Err() == nil {
		err = errors.Join(err, r.noteKeys(ctx))
	}
	if err == nil && !good {
		err = r.failed(what, out)
	}
	return err
}

// rpmNames turns name=version, as apt has it, into name-version.
func rpmNames(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.Replace(n, "=", "-", 1)
	}
	return out
}

// installed lists all packages; rpm has the keys that it knows as packages of
// one name, so that of these the version counts.
func (r *rpm) installed(ctx context.Context) ([]string, error) {
	out, err := r.run(ctx, "rpm", "-qa", "--qf", "%{NAME}|%{VERSION}-%{RELEASE}\\n")
	if err == nil && out.code != 0 {
		err = r.failed("rpm -qa", out)
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(out.stdout)) {
		name, version, ok := strings.Cut(strings.TrimSpace(line), "|")
		if name == "gpg-pubkey" {
			name += "-" + version
		}
		if ok {
			all = append(all, name)
		}
	}
	return all, nil
}

func isKey(name string) bool { return strings.HasPrefix(name, "gpg-pubkey-") }

// noteKeys notes keys that the package tool has imported.
func (r *rpm) noteKeys(ctx context.Context) error {
	have, err := r.installed(ctx)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(have, func(n string) bool { return !isKey(n) || slices.Contains(r.keys, n) })
	if len(fresh) == 0 {
		return nil
	}
	return r.recordNew(fresh, nil)
}

// begin takes the keys away: no package needs them.
func (r *rpm) begin(ctx context.Context) error {
	have, err := r.installed(ctx)
	if err != nil {
		return err
	}
	keys := slices.DeleteFunc(slices.Clone(r.in.Added), func(n string) bool { return !isKey(n) || !slices.Contains(have, n) })
	if len(keys) == 0 {
		return nil
	}
	out, err := r.change(ctx, append([]string{"rpm", "-e"}, keys...)...)
	if err == nil && out.code != 0 {
		err = r.failed("rpm -e "+strings.Join(keys, " "), out)
	}
	return err
}

// "	libnvjitlink-12-8 >= 12.8 is needed by (installed) plain-tool-1.0-1.noarch"
var neededBy = lazy.Regexp(`^\s*(\S+).* is needed by \(installed\) (\S+)`)

// testRemoval asks rpm what stands against the removal of packages: what of them is
// needed, and by which others.
func (r *rpm) testRemoval(ctx context.Context, names []string) (out output, needed, by []string, err error) {
	out, err = r.run(ctx, append([]string{"rpm", "-e", "--test"}, names...)...)
	for _, l := range out.lines {
		if m := neededBy().FindStringSubmatch(l); m != nil {
			needed, by = append(needed, m[1]), append(by, m[2])
		}
	}
	return out, needed, slices.Compact(slices.Sorted(slices.Values(by))), err
}

// alsoAffected asks rpm, since dnf and zypper are told to remove what is named only.
func (r *rpm) alsoAffected(ctx context.Context, names []string) ([]string, error) {
	out, _, others, err := r.testRemoval(ctx, names)
	if err == nil && out.code != 0 && len(others) == 0 {
		err = r.failed("rpm -e --test", out)
	}
	return others, err
}

// unneeded asks rpm which of our packages could go without breaking others,
// keep among them. It needs no repository for that.
func (r *rpm) unneeded(ctx context.Context, keep []string) ([]string, error) {
	keep, err := r.providers(ctx, keep)
	if err != nil {
		return nil, err
	}
	goners := slices.DeleteFunc(slices.Clone(r.in.Added), func(n string) bool { return isKey(n) || slices.Contains(keep, n) })
	for len(goners) > 0 {
		out, needed, _, err := r.testRemoval(ctx, goners)
		if err != nil || out.code == 0 {
			return goners, err
		}
		if needed, err = r.providers(ctx, needed); err != nil {
			return nil, err
		}
		before := len(goners)
		goners = slices.DeleteFunc(goners, func(n string) bool { return slices.Contains(needed, n) })
		if len(goners) == before {
			r.log.Warnf("rpm would not remove what was installed for the toolkit: %s", out.tail(3))
			return nil, nil
		}
	}
	return nil, nil
}

// providers are the installed packages that have the names, or provide what is named so.
func (r *rpm) providers(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := r.run(ctx, append([]string{"rpm", "-q", "--whatprovides", "--qf", "%{NAME}\\n"}, names...)...)
	return append(strings.Fields(string(out.stdout)), names...), err
}
