package cuda

import (
	"context"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *apt) markWanted(ctx context.Context, names []string) error {
	return a.mark(ctx, "manual", names)
}

// mark says whether packages are there for their own sake (manual) or others' (auto).
func (a *apt) mark(ctx context.Context, how string, names []string) error {
	out, err := a.change(ctx, append([]string{"apt-mark", how}, names...)...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("run apt-get check in the container", "apt-mark %s %s in the container: %s", how, strings.Join(names, " "), out.tail(3))
	}
	return err
}

// unneeded tells apt that what is not wanted any longer is not there for its own
// sake, and takes of what apt would then clean away only what we brought.
func (a *apt) unneeded(ctx context.Context, keep []string) ([]string, error) {
	if stale := a.stale(keep); len(stale) > 0 {
		if err := a.mark(ctx, "auto", stale); err != nil {
			return nil, err
		}
	}
	out, err := a.run(ctx, a.look("autoremove", "-s")...)
	if err != nil {
		return nil, err
	}
	if out.code != 0 {
		return nil, hint.Errorf("run apt-get check in the container", "apt-get -s autoremove in the container: %s", out.tail(3))
	}
	return slices.DeleteFunc(parsePlan(string(out.stdout)).remove, func(n string) bool {
		return !slices.Contains(a.in.Added, n) || slices.Contains(keep, n)
	}), nil
}

func (a *apt) alsoAffected(ctx context.Context, names []string) ([]string, error) {
	out, err := a.run(ctx, a.look("purge", "-s", names...)...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("run apt-get check in the container", "apt-get -s purge in the container: %s", out.tail(3))
	}
	p := parsePlan(string(out.stdout))
	return slices.DeleteFunc(slices.Concat(p.remove, p.fresh, p.newer), func(n string) bool { return slices.Contains(names, n) }), err
}

// purge removes packages unless that would touch others.
func (a *apt) purge(ctx context.Context, names []string) error {
	others, err := a.alsoAffected(ctx, names)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return hint.Errorf("run apt-get autoremove in the container, then this again",
			"removing %s would touch others too: %s", shortList(names), say.Clean(strings.Join(others, ", "), 300))
	}
	out, err := a.change(ctx, append(a.command("purge"), names...)...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("run dpkg --configure -a in the container and see what it says", "apt-get purge in the container: %s", out.tail(4))
	}
	return err
}

// begin has dpkg remove what we brought and it cannot finish: apt would insist on
// installing that anew.
func (a *apt) begin(ctx context.Context) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	broken, err := a.states(ctx, func(state string) bool { return state[1] == 'H' || strings.HasSuffix(state, "R") })
	broken = slices.DeleteFunc(broken, func(n string) bool { return !slices.Contains(a.in.Added, n) })
	if err != nil || len(broken) == 0 {
		return err
	}
	out, err := a.change(ctx, append([]string{"dpkg", "--purge", "--force-remove-reinstreq", "--force-depends"}, broken...)...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("see what this says in the container: dpkg --audit", "dpkg cannot remove %s in the container: %s", shortList(broken), out.tail(3))
	}
	return err
}

// end removes fetched packages, up to 3 GB of them, that a run that was cut off
// has left. The index of the repository goes with apt's next update.
func (a *apt) end(ctx context.Context) error {
	_, err := a.change(ctx, "apt-get", "clean")
	return err
}
