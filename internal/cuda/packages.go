package cuda

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// plan is what a package tool would do.
type plan struct {
	fresh  []string // packages that would come in new
	newer  []string // packages that would change their version
	remove []string // packages that would go
	fetch  uint64   // bytes to download
	disk   uint64   // bytes that the disk will hold besides
}

func (p plan) empty() bool { return len(p.fresh)+len(p.newer)+len(p.remove) == 0 }

// installPackages installs packages after a look at what that would do.
func (j *job) installPackages(ctx context.Context, m manager, names []string) error {
	p, err := m.plan(ctx, names)
	if err != nil {
		return err
	}
	if err := judgePlan(p, names); err != nil {
		return err
	}
	if p.empty() {
		j.log.Infof("all packages are there: %s", strings.Join(names, ", "))
		return nil
	}
	if err := j.room(p, names); err != nil {
		return err
	}
	if err := j.recordNew(p.fresh, bareNames(names)); err != nil {
		return err
	}
	err = m.act(ctx, actInstall, names)
	if err != nil && ctx.Err() == nil {
		// What did not come in is not ours should the user install it.
		if have, err := m.installed(ctx); err == nil {
			j.forget(have)
		}
	}
	return err
}

// judgePlan refuses a plan that must not be carried out.
func judgePlan(p plan, names []string) error {
	if name, ok := firstDriver(slices.Concat(p.fresh, p.newer)); ok {
		return refuseDriver(name, names, "")
	}
	if len(p.remove) > 0 {
		return hint.Errorf("remove them in the container yourself when they are not needed, or ask for other packages",
			"installing %s would remove %s", strings.Join(names, ", "), say.Clean(strings.Join(p.remove, ", "), 300))
	}
	return nil
}

// room refuses an installation that the container's disk cannot hold: a whole
// toolkit takes some 8 GB beside the packages that are fetched first.
func (j *job) room(p plan, names []string) error {
	free, err := j.c.Free("/usr")
	if err != nil {
		return fmt.Errorf("ask for free space in the container: %w", err)
	}
	const spare = 64 << 20
	if need := p.fetch + p.disk + spare; need > free {
		return hint.Errorf(j.w.diskHint(),
			"installing %s needs %s on the container's disk, there are %s", strings.Join(names, ", "), say.Bytes(int64(need)), say.Bytes(int64(free)))
	}
	j.log.Infof("installing %s: %s to fetch, %s on the disk", strings.Join(names, ", "), say.Bytes(int64(p.fetch)), say.Bytes(int64(p.disk)))
	return nil
}

// removeUnneeded removes, of what earlier runs brought, the packages that keep does
// not name and nothing needs any more, for instance the toolkit of another release.
// What others need stays, and so does what was there before.
func (j *job) removeUnneeded(ctx context.Context, m manager, keep []string) error {
	have, err := m.installed(ctx)
	if err != nil {
		return err
	}
	j.forget(have)
	// A part of what is to go may be wanted from now on for its own sake.
	mine := slices.DeleteFunc(slices.Clone(keep), func(n string) bool {
		return !slices.Contains(j.in.Added, n) || slices.Contains(j.in.Asked, n)
	})
	if len(mine) > 0 {
		if err := m.markWanted(ctx, mine); err != nil {
			return err
		}
		j.in.Asked = append(j.in.Asked, mine...)
	}
	goners, err := m.unneeded(ctx, keep)
	if err != nil {
		return err
	}
	if len(goners) > 0 {
		if have, err = j.removePackages(ctx, m, goners); err != nil {
			return err
		}
	}
	j.forget(have)
	j.in.Asked = slices.DeleteFunc(j.in.Asked, func(n string) bool { return !slices.Contains(keep, n) })
	return j.save()
}

// removePackages removes packages and returns those that are installed then.
func (j *job) removePackages(ctx context.Context, m manager, names []string) ([]string, error) {
	j.log.Infof("removing %s", shortList(names))
	if err := m.act(ctx, actRemove, names); err != nil {
		return nil, err
	}
	have, err := m.installed(ctx)
	for _, n := range names {
		if err == nil && slices.Contains(have, n) {
			err = hint.Errorf("remove it in the container and see what is said", "package %s is still there after its removal", n)
		}
	}
	return have, err
}

// stale are packages that were asked for by name and are not any longer.
func (j *job) stale(keep []string) []string {
	return slices.DeleteFunc(slices.Clone(j.in.Asked), func(n string) bool { return slices.Contains(keep, n) })
}

// forget leaves of what is noted as ours only what is installed.
func (j *job) forget(have []string) {
	gone := func(n string) bool { return !slices.Contains(have, n) }
	j.in.Added = slices.DeleteFunc(j.in.Added, gone)
	j.in.Asked = slices.DeleteFunc(j.in.Asked, gone)
}

// checkComplete makes sure that all that is wanted is there in the end: the plan for
// it has nothing left to do.
func (j *job) checkComplete(ctx context.Context, m manager, names []string) error {
	p, err := m.plan(ctx, names)
	if err == nil && len(p.fresh) > 0 {
		err = hint.Errorf("run apply for this container again", "%s was installed and is not there any more", shortList(p.fresh))
	}
	return err
}

// recordNew adds packages that are about to come in to what is in the container.
func (j *job) recordNew(fresh, asked []string) error {
	for _, n := range fresh {
		if !addedForm().MatchString(n) {
			continue
		}
		if !slices.Contains(j.in.Added, n) {
			j.in.Added = append(j.in.Added, n)
		}
		if slices.Contains(asked, n) && !slices.Contains(j.in.Asked, n) {
			j.in.Asked = append(j.in.Asked, n)
		}
	}
	return j.save()
}

// bareNames leaves the version out of name=version.
func bareNames(names []string) []string {
	bare := make([]string, len(names))
	for i, n := range names {
		bare[i], _, _ = strings.Cut(n, "=")
	}
	return bare
}

func shortList(names []string) string {
	if len(names) <= 6 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
}

func refuseDriver(name string, names []string, why string) error {
	if why != "" {
		why = ": " + why
	}
	return hint.Errorf("ask for packages that do without the driver: cuda-toolkit-X-Y or parts of it, not cuda, cuda-runtime-X-Y or cuda-drivers",
		"installing %s would bring in the driver package %s, but the driver comes from the host's run file%s", strings.Join(names, ", "), say.Clean(trimArch(name), 100), why)
}

var word = lazy.Regexp(`[a-z0-9][A-Za-z0-9+.:_-]+`)

// driverIn finds a driver package's name in what a package tool said when it
// could not work out a transaction. What is behind "Depends:" or "requires"
// counts first: the words before are those that asked for it.
func driverIn(lines []string) (string, bool) {
	for _, behind := range []string{"Depends:", " requires ", ""} {
		for _, l := range lines {
			_, after, ok := strings.Cut(l, behind)
			if !ok || strings.Contains(l, "://") { // the address of a CUDA repository holds the word cuda
				continue
			}
			if name, ok := firstDriver(word().FindAllString(after, -1)); ok {
				return trimArch(name), true
			}
		}
	}
	return "", false
}

func trimArch(name string) string {
	name, _, _ = strings.Cut(strings.TrimRight(name, ".:"), ":")
	return name
}
