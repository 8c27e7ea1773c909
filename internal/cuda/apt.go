package cuda

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// apt is apt and dpkg of Debian and Ubuntu at work for a job.
type apt struct{ *job }

const (
	keyringPackage = "cuda-keyring"
	// keyringDeb has this name in every folder of NVIDIA's.
	keyringDeb = "cuda-keyring_1.1-1_all.deb"
	// staged is where the keyring package lies while it is installed; /tmp may
	// still be mounted over by an init that is starting.
	staged = "/var/lib/pve-nvidia-hook/" + keyringDeb
)

// options of every apt-get: no recommended packages (they would be the driver),
// files that the user changed stay, locks are waited for, fetched packages are not kept.
func (a *apt) options() []string {
	return []string{"-q", "--no-install-recommends",
		"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
		"-o", fmt.Sprintf("DPkg::Lock::Timeout=%d", int(max(a.w.LockWait, time.Second)/time.Second)),
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

func (a *apt) prepare(ctx context.Context) error {
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
	if err := a.waitLocks(ctx, aptLocks); err != nil {
		return err
	}
	if err := a.heal(ctx); err != nil {
		return err
	}
	// The pin comes first: from the moment that apt knows the repository no
	// package of the driver can come in, not by anyone's apt upgrade either.
	if err := a.put(pinFile, pinText()); err != nil {
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

// heal lets dpkg finish what a run that was cut off has left: packages unpacked
// but not configured, entries in its journal.
func (a *apt) heal(ctx context.Context) error {
	dirty, err := a.dirty(ctx)
	if err != nil || dirty == "" {
		return err
	}
	a.log.Warnf("dpkg in the container was interrupted (%s): letting it finish", dirty)
	out, err := a.locked(ctx, func() (output, error) {
		return a.run(ctx, "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
	})
	if err == nil && out.code != 0 {
		a.log.Warnf("dpkg --configure -a in the container: %s", out.tail(3))
	}
	return err
}

// mend lets apt finish what dpkg alone cannot: a package whose unpacking was cut
// off is unpacked anew, from the lists that are fetched by now.
func (a *apt) mend(ctx context.Context) error {
	dirty, err := a.dirty(ctx)
	if err != nil || dirty == "" {
		return err
	}
	broken, err := a.states(ctx, func(state string) bool { return strings.Contains(state, "R") || state[1] == 'H' })
	if err != nil {
		return err
	}
	args := a.command("install", "-f", "--no-remove")
	if len(broken) > 0 {
		args = a.command("install", append([]string{"--reinstall", "--no-remove"}, broken...)...)
	}
	a.log.Infof("letting apt mend what was interrupted (%s)", dirty)
	out, err := a.run(ctx, args...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("put it right in the container with apt-get -f install", "apt cannot mend an interrupted installation: %s", out.tail(4))
	}
	return err
}

// dirty says in a few words why dpkg is not in a clean state, "" when it is.
func (a *apt) dirty(ctx context.Context) (string, error) {
	// apt itself takes numbered files in this folder for an interrupted dpkg.
	names, err := a.c.ReadDir("/var/lib/dpkg/updates", 1000)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read dpkg's journal in the container: %w", err)
	}
	for _, n := range names {
		if strings.Trim(n, "0123456789") == "" {
			return "its journal is not empty", nil
		}
	}
	half, err := a.states(ctx, func(state string) bool {
		return strings.ContainsAny(state[1:2], "UFHWt") || strings.Contains(state, "R")
	})
	if err != nil || len(half) == 0 {
		return "", err
	}
	if len(half) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(half[:3], ", "), len(half)-3), nil
	}
	return strings.Join(half, ", "), nil
}

// states lists the packages whose state (dpkg-query's db:Status-Abbrev, for
// instance "ii ", "iU " unpacked, "iHR" to be reinstalled) is as asked for.
// Packages of another architecture than the container's carry it behind a colon.
func (a *apt) states(ctx context.Context, is func(state string) bool) ([]string, error) {
	out, err := a.run(ctx, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}|${Architecture}\\n")
	if err != nil {
		return nil, err
	}
	if out.code != 0 {
		return nil, fmt.Errorf("dpkg-query in the container: %s", out.tail(3))
	}
	native := ""
	var rows [][]string
	for line := range strings.Lines(string(out.stdout)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "|")
		if len(f) != 3 || len(f[0]) < 2 || !packageForm.MatchString(f[1]) {
			continue
		}
		if f[1] == "dpkg" {
			native = f[2]
		}
		rows = append(rows, f)
	}
	var all []string
	for _, f := range rows {
		if !is(f[0]) {
			continue
		}
		name := f[1]
		if f[2] != "all" && f[2] != native {
			name += ":" + f[2]
		}
		all = append(all, name)
	}
	return all, nil
}

func (a *apt) installed(ctx context.Context) ([]string, error) {
	return a.states(ctx, func(state string) bool { return state[1] == 'i' })
}

// locked runs a command that does not wait for dpkg's lock itself, again when
// someone took the lock in between.
func (a *apt) locked(ctx context.Context, try func() (output, error)) (out output, err error) {
	for range 5 {
		if err := a.waitLocks(ctx, aptLocks); err != nil {
			return out, err
		}
		out, err = try()
		if err != nil || out.code == 0 || !out.contains("is locked by another process", "Could not get lock") {
			return out, err
		}
	}
	return out, err
}

// keyringName is the keyring package's name in the shared cache: one for each
// distribution, and for each mirror, whose package names another URL.
func (a *apt) keyringName() string {
	name := strings.TrimSuffix(keyringDeb, "all.deb") + a.distro.Folder
	if !strings.HasPrefix(a.repo, repoBase) {
		sum := sha256.Sum256([]byte(a.repo))
		name += "_" + hex.EncodeToString(sum[:4])
	} else if strings.Contains(a.repo, "/sbsa/") {
		name += "_sbsa"
	}
	return name + ".deb"
}

// keyring installs NVIDIA's keyring package unless it is there.
func (a *apt) keyring(ctx context.Context) error {
	have, err := a.installed(ctx)
	if err != nil {
		return err
	}
	was := slices.Contains(have, keyringPackage)
	if was {
		if info, err := a.c.Stat(keyringFile); err == nil && info.Mode.IsRegular() && info.Size > 0 {
			return nil
		}
		a.log.Warnf("%s is missing though %s is installed: installing it again", keyringFile, keyringPackage)
	}
	if strings.HasPrefix(a.repo, "http://") {
		a.log.Warnf("the key of %s comes over plain http: whoever can change it on its way owns the container", a.repo)
	}
	deb, err := a.cached(ctx, a.repo+keyringDeb, a.keyringName(), checkDeb)
	if err != nil {
		return fmt.Errorf("get NVIDIA's keyring package: %w", err)
	}
	if !was {
		if err := a.note([]string{keyringPackage}, []string{keyringPackage}); err != nil {
			return err
		}
	}
	if err := a.c.MkdirAll("/var/lib/pve-nvidia-hook", 0o755); err != nil {
		return fmt.Errorf("make a folder for the keyring package: %w", err)
	}
	if err := a.c.Remove(staged); err != nil {
		return fmt.Errorf("remove an old %s: %w", staged, err)
	}
	defer func() { _ = a.c.Remove(staged) }()
	if _, err := a.c.CopyIn(ctx, bytes.NewReader(deb), staged, 0o644); err != nil {
		return fmt.Errorf("copy the keyring package into the container: %w", err)
	}
	out, err := a.locked(ctx, func() (output, error) {
		return a.run(ctx, "dpkg", "--force-confdef", "--force-confold", "-i", staged)
	})
	if err != nil {
		return err
	}
	if out.code != 0 {
		return hint.Wrap(fmt.Errorf("dpkg -i %s in the container: %s", keyringDeb, out.tail(4)), "run dpkg --configure -a in the container and see what it says")
	}
	if _, err := a.c.Stat(keyringFile); err != nil {
		return fmt.Errorf("the keyring package of %s did not bring %s: %w", a.repo, keyringFile, err)
	}
	return nil
}

// ownedLists are apt's source lists that the keyring package brought.
func (a *apt) ownedLists(ctx context.Context) ([]string, error) {
	out, err := a.run(ctx, "dpkg-query", "-L", keyringPackage)
	if err != nil || out.code != 0 { // 1: not installed
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(out.stdout)) {
		if name := strings.TrimSpace(line); strings.HasPrefix(name, sourcesDir+"/") {
			all = append(all, name)
		}
	}
	return all, nil
}

// list sees to it that apt has the repository once. The keyring package brings
// a list with NVIDIA's URL. For a mirror, that list is removed when we brought
// it (dpkg leaves a removed configuration file removed, upgrades included), and a list of our own names the mirror.
func (a *apt) list(ctx context.Context) error {
	owned, err := a.ownedLists(ctx)
	if err != nil {
		return err
	}
	all, err := a.sources()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.file != ownList && sameRepo(s.uri, a.repo) {
			return a.drop(ownList)
		}
	}
	if slices.Contains(a.in.Added, keyringPackage) {
		for _, file := range owned {
			if err := a.c.Remove(file); err != nil {
				return fmt.Errorf("remove %s: %w", file, err)
			}
		}
	}
	return a.put(ownList, fmt.Sprintf("# Written by pve-nvidia-hook.\ndeb [signed-by=%s] %s /\n", keyringFile, a.repo))
}

func (a *apt) toolkits(ctx context.Context) ([]available, error) {
	out, err := a.run(ctx, "apt-cache", "pkgnames", "cuda-toolkit-")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range strings.Fields(string(out.stdout)) {
		if toolkitName.MatchString(n) && len(names) < 200 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	// Lines of madison: "cuda-toolkit-12-8 | 12.8.1-1 | https://... Packages".
	// Names without a version that could be installed get no line.
	out, err = a.run(ctx, append([]string{"apt-cache", "madison"}, names...)...)
	if err != nil {
		return nil, err
	}
	var pairs [][2]string
	for line := range strings.Lines(string(out.stdout)) {
		if f := strings.Split(line, "|"); len(f) == 3 {
			pairs = append(pairs, [2]string{strings.TrimSpace(f[0]), strings.TrimSpace(f[1])})
		}
	}
	return collect(pairs), nil
}

func (a *apt) install(ctx context.Context, names []string) error {
	p, err := a.simulate(ctx, names)
	if err != nil {
		return err
	}
	if p.empty() {
		a.log.Infof("all packages are there: %s", strings.Join(names, ", "))
		return nil
	}
	if err := a.room(ctx, names); err != nil {
		return err
	}
	if err := a.note(p.fresh, bareNames(names)); err != nil {
		return err
	}
	args := append(a.command("install", "--no-remove"), names...)
	out, err := a.watch(ctx, a.progress(len(p.fresh)+len(p.newer)), args...)
	if err != nil {
		return err
	}
	if out.code != 0 {
		return hint.Errorf("the next run takes up where this one stopped", "apt-get install %s in the container: %s", strings.Join(names, ", "), out.tail(5))
	}
	return a.forgetArchives(a.in.Added)
}

// progress says every few seconds what apt is at.
func (a *apt) progress(total int) func(string) {
	var last time.Time
	fetched, set := 0, 0
	return func(line string) {
		switch {
		case strings.HasPrefix(line, "Get:"):
			fetched++
		case strings.HasPrefix(line, "Setting up "):
			set++
		case !strings.HasPrefix(line, "Unpacking "):
			return
		}
		if last.IsZero() {
			last = time.Now()
		}
		if time.Since(last) < 10*time.Second {
			return
		}
		last = time.Now()
		a.log.Infof("toolkit: %d of %d packages fetched, %d set up", min(fetched, total), total, min(set, total))
	}
}
