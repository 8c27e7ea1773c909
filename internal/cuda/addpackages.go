package cuda

import (
	"context"
	"errors"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// AddPackages installs w.Packages from the repositories that the container has
// itself, under the rules of Install: no driver package comes in, and nothing is
// removed. What it returns is to be recorded, after an error too; Remove takes it
// away. Of w it uses Packages, Proxy, Timeout, NetworkWait, LockWait, Had and Save.
func AddPackages(ctx context.Context, c Container, w Want, log Log) (Installed, error) {
	j, cancel := newJob(ctx, c, w, log)
	defer cancel()
	err := j.addPackages(j.ctx)
	return j.in, j.explain(err)
}

func (j *job) addPackages(ctx context.Context) error {
	names := j.w.Packages
	if err := checkPackages(names); err != nil {
		return err
	}
	m, err := j.ownTool()
	if err != nil {
		return err
	}
	j.in.OK = false
	j.in.Packages, j.in.Tool = names, j.distro.Tool
	if err := m.prepare(ctx, names); err != nil {
		return err
	}
	if err := j.installPackages(ctx, m, names); err != nil {
		return err
	}
	if err := j.checkComplete(ctx, m, names); err != nil {
		return err
	}
	j.in.OK = true
	return j.save()
}

// prepare fetches the lists of all repositories, again and again while one of them
// cannot be reached and the packages are in none of the others.
func (a *apt) prepare(ctx context.Context, names []string) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	return a.retry(ctx, a.lists(), func() (bool, error) {
		out, err := a.run(ctx, a.command("update", "-o", "Acquire::Retries=1")...)
		if err != nil {
			return false, err
		}
		v, about, failed := judgeUpdate(out.code, out.lines, "none of them")
		switch v {
		case lockedOut:
			return true, errors.New(say.Clean(about, 400))
		case toolFailed:
			return false, a.blame(v, "apt-get update", about)
		}
		_, err = a.plan(ctx, names)
		if err == nil || len(failed) == 0 {
			return false, err
		}
		return true, hint.Wrap(errors.New(say.Clean(failed[0], 400)), hint.Of(err))
	})
}

// prepare has no lists to fetch: dnf and zypper do it where it is due.
func (r *rpm) prepare(ctx context.Context, _ []string) (err error) {
	r.keys, err = r.installed(ctx)
	return err
}
