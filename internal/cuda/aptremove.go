package cuda

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// prune removes what an earlier run installed and nothing needs any more, for
// instance the toolkit of another release.
func (a *apt) prune(ctx context.Context, names []string) error {
	keep := append(bareNames(names), keyringPackage)
	var stale []string
	for _, n := range a.in.Asked {
		if !slices.Contains(keep, n) {
			stale = append(stale, n)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return a.sweep(ctx, stale)
}

func (a *apt) remove(ctx context.Context) error {
	if err := a.waitLocks(ctx, aptLocks); err != nil {
		return err
	}
	if err := a.heal(ctx); err != nil {
		return err
	}
	if err := a.forgetArchives(a.in.Added); err != nil {
		return err
	}
	if err := a.sweep(ctx, a.in.Asked); err != nil {
		return err
	}
	if len(a.in.Added) > 0 {
		a.log.Infof("these packages stay, something else in the container needs them: %s", strings.Join(a.in.Added, ", "))
	}
	return a.forgetLists()
}

// sweep removes packages that were asked for and are not any longer, and those
// that came in with them. It tells apt that they are no longer there for
// their own sake, and takes of what apt would then clean away only what we
// brought: what others need stays, and so does what was there before.
func (a *apt) sweep(ctx context.Context, stale []string) error {
	have, err := a.installed(ctx)
	if err != nil {
		return err
	}
	gone := func(n string) bool { return !slices.Contains(have, n) }
	if auto := slices.DeleteFunc(slices.Clone(stale), gone); len(auto) > 0 {
		out, err := a.locked(ctx, func() (output, error) {
			return a.run(ctx, append([]string{"apt-mark", "auto"}, auto...)...)
		})
		if err != nil {
			return err
		}
		if out.code != 0 {
			return hint.Errorf("run apt-get check in the container", "apt-mark auto %s in the container: %s", strings.Join(auto, " "), out.tail(3))
		}
	}
	out, err := a.run(ctx, a.look("autoremove", "-s")...)
	if err != nil {
		return err
	}
	if out.code != 0 {
		return hint.Errorf("run apt-get check in the container", "apt-get -s autoremove in the container: %s", out.tail(3))
	}
	var goners []string
	for _, n := range parsePlan(string(out.stdout)).remove {
		if slices.Contains(a.in.Added, n) {
			goners = append(goners, n)
		}
	}
	if len(goners) > 0 {
		if err := a.purge(ctx, goners); err != nil {
			return err
		}
	}
	if have, err = a.installed(ctx); err != nil {
		return err
	}
	a.in.Added = slices.DeleteFunc(a.in.Added, gone)
	a.in.Asked = slices.DeleteFunc(a.in.Asked, func(n string) bool { return slices.Contains(stale, n) || gone(n) })
	return a.save()
}

func (a *apt) purge(ctx context.Context, names []string) error {
	out, err := a.run(ctx, a.look("purge", "-s", names...)...)
	if err != nil {
		return err
	}
	p := parsePlan(string(out.stdout))
	var others []string
	for _, n := range append(p.remove, p.fresh...) {
		if !slices.Contains(names, n) {
			others = append(others, say.Clean(n, 100))
		}
	}
	if out.code != 0 || len(others) > 0 {
		return hint.Errorf("run apt-get autoremove in the container, then this again",
			"removing the toolkit's packages would touch others too (%s): %s", strings.Join(others, ", "), out.tail(3))
	}
	a.log.Infof("removing %s", few(names))
	out, err = a.run(ctx, append(a.command("purge"), names...)...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("run dpkg --configure -a in the container and see what it says", "apt-get purge in the container: %s", out.tail(4))
	}
	return err
}

func few(names []string) string {
	if len(names) <= 6 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
}
