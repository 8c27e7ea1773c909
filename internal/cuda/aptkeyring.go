package cuda

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const (
	keyringPackage = "cuda-keyring"
	// keyringDeb has this name in every folder of NVIDIA's.
	keyringDeb = "cuda-keyring_1.1-1_all.deb"
	// staged is where the keyring package lies while it is installed; /tmp may
	// still be mounted over by an init that is starting.
	staged = "/var/lib/pve-nvidia-hook/" + keyringDeb
)

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
	deb, err := a.fetch(ctx, a.repo+keyringDeb, keyringDeb, checkDeb)
	if err != nil {
		return err
	}
	if !was {
		if err := a.recordNew([]string{keyringPackage}, []string{keyringPackage}); err != nil {
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
	out, err := a.change(ctx, "dpkg", "--force-confdef", "--force-confold", "-i", staged)
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
// it (dpkg leaves a removed configuration file removed, upgrades included), and a
// list of our own names the mirror unless one of the user's does.
func (a *apt) list(ctx context.Context) error {
	owned, err := a.ownedLists(ctx)
	if err != nil {
		return err
	}
	all, err := a.sources()
	if err != nil {
		return err
	}
	names := func(is func(file string) bool) bool {
		return slices.ContainsFunc(all, func(s source) bool { return is(s.file) && sameRepo(s.uri, a.repo) })
	}
	if slices.Contains(a.in.Added, keyringPackage) {
		for _, file := range owned {
			if names(func(f string) bool { return f == file }) {
				continue
			}
			if err := a.c.Remove(file); err != nil {
				return fmt.Errorf("remove %s: %w", file, err)
			}
		}
	}
	if names(func(f string) bool { return f != ownList }) {
		return a.removeFile(ownList)
	}
	return a.writeFile(ownList, fmt.Sprintf("# Written by pve-nvidia-hook.\ndeb [signed-by=%s] %s /\n", keyringFile, a.repo))
}
