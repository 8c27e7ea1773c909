package cuda

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// ready lets dpkg finish what a run that was cut off has left: packages unpacked
// but not configured, entries in its journal. Where there is nothing, it says nothing.
func (a *apt) ready(ctx context.Context) error {
	out, err := a.change(ctx, "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
	if err == nil && len(out.lines) > 0 {
		a.log.Warnf("dpkg in the container was interrupted and has gone on: %s", out.tail(3))
	}
	return err
}

// mend lets apt finish what dpkg alone cannot: a package whose unpacking was cut
// off is unpacked anew, from the lists that are fetched by now.
func (a *apt) mend(ctx context.Context) error {
	half, err := a.states(ctx, func(state string) bool {
		return strings.ContainsAny(state[1:2], "UFHWt") || strings.HasSuffix(state, "R")
	})
	if err != nil || len(half) == 0 {
		return err
	}
	broken, err := a.states(ctx, func(state string) bool { return state[1] == 'H' || strings.HasSuffix(state, "R") })
	if err != nil {
		return err
	}
	args := a.command("install", "-f", "--no-remove")
	if len(broken) > 0 {
		args = append(append(args, "--reinstall"), broken...)
	}
	a.log.Infof("letting apt repair an interrupted installation (%s)", shortList(half))
	out, err := a.change(ctx, args...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("repair it in the container with: apt-get -f install", "apt cannot repair an interrupted installation: %s", out.tail(4))
	}
	return err
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
	return parseStates(string(out.stdout), is), nil
}

func parseStates(text string, is func(state string) bool) []string {
	var rows [][]string
	native := ""
	for line := range strings.Lines(text) {
		if f := strings.Split(strings.TrimRight(line, "\n"), "|"); len(f) == 3 && len(f[0]) >= 2 {
			rows = append(rows, f)
			if f[1] == "dpkg" {
				native = f[2]
			}
		}
	}
	var all []string
	for _, f := range rows {
		name := f[1]
		if !slices.Contains([]string{"all", native}, f[2]) {
			name += ":" + f[2]
		}
		if addedForm().MatchString(name) && is(f[0]) {
			all = append(all, name)
		}
	}
	return all
}

func (a *apt) installed(ctx context.Context) ([]string, error) {
	return a.states(ctx, func(state string) bool { return state[1] == 'i' })
}
