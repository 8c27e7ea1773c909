package cuda

import (
	"context"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// RemoveDriver removes the distribution's packages of the driver from the
// container and returns their names. It asks the package tool first what would go
// with them, and does nothing when that is more than what only serves the driver.
// Of w it uses Timeout and LockWait.
func RemoveDriver(ctx context.Context, c Container, w Want, log Log) ([]string, error) {
	j, cancel := newJob(ctx, c, w, log)
	defer cancel()
	names, err := j.removeDriver(j.ctx)
	return names, j.explain(err)
}

func (j *job) removeDriver(ctx context.Context) ([]string, error) {
	m, err := j.ownTool()
	if err != nil {
		return nil, err
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	have, err := m.installed(ctx)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(have, func(n string) bool { return !cudapkg.IsDriver(n) && !cudapkg.IsCompanion(n) })
	if !slices.ContainsFunc(names, cudapkg.IsDriver) {
		return nil, nil
	}
	others, err := m.alsoAffected(ctx, names)
	if err != nil {
		return nil, err
	}
	if len(others) > 0 {
		return nil, hint.Errorf("remove these too where they are not needed, or leave the driver to the distribution's packages: VMID.enabled = false below [containers]",
			"the driver's packages were not removed, others need them: %s", say.Clean(strings.Join(others, ", "), 300))
	}
	j.log.Infof("the distribution's driver packages make room for the run file's driver")
	if _, err := j.removePackages(ctx, m, names); err != nil {
		return nil, err
	}
	return names, nil
}

// ownTool is the package tool of the container's operating system, without any
// repository of NVIDIA's.
func (j *job) ownTool() (manager, error) {
	o, err := readOS(j.c)
	if err != nil {
		return nil, err
	}
	j.distro = Distro{Tool: FindDistro(o).Tool}
	m := j.manager()
	if m == nil {
		return nil, hint.Errorf("do it in the container with its own package tool", "this program knows apt, dnf and zypper, not the package tool of %s", o)
	}
	return m, nil
}
