package cuda

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// ready waits for other package tools and heals what they, or a run of ours, left.
func (a *apt) ready(ctx context.Context) error {
	if err := a.waitLocks(ctx, aptLocks); err != nil {
		return err
	}
	return a.heal(ctx)
}

// heal lets dpkg finish what a run that was cut off has left: packages unpacked
// but not configured, entries in its journal.
func (a *apt) heal(ctx context.Context) error {
	dirty, err := a.dirty(ctx)
	if err != nil || dirty == "" {
		return err
	}
	a.log.Warnf("dpkg in the container was interrupted (%s): letting it finish", dirty)
	out, err := a.locked(ctx, aptLocks, func() (output, error) {
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
	a.log.Infof("letting apt repair an interrupted installation (%s)", dirty)
	out, err := a.run(ctx, args...)
	if err == nil && out.code != 0 {
		err = hint.Errorf("repair it in the container with: apt-get -f install", "apt cannot repair an interrupted installation: %s", out.tail(4))
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
	return parseStates(string(out.stdout), is), nil
}

func parseStates(text string, is func(state string) bool) []string {
	native := ""
	var rows [][]string
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimRight(line, "\n"), "|")
		if len(f) != 3 || len(f[0]) < 2 {
			continue
		}
		if f[1] == "dpkg" {
			native = f[2]
		}
		rows = append(rows, f)
	}
	var all []string
	for _, f := range rows {
		name := f[1]
		if f[2] != "all" && f[2] != native {
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
