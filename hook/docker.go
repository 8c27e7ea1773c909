package hook

import (
	"context"
	"fmt"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/docker"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// dockerMissing says why the Container Toolkit is not set up as wanted, or "" when
// it is, or is not wanted. No process is started.
func (w *work) dockerMissing(wanted version.Driver) string {
	if !w.Settings.Docker.Toolkit {
		return ""
	}
	var had docker.Installed
	if w.installed != nil {
		var err error
		if had, err = recorded[docker.Installed](w.installed.Docker); err != nil {
			return err.Error()
		}
	}
	if ok, why := docker.Current(w.container, had, wanted); !ok {
		return say.Clean(why, maxClaim) // it may name a file of the container
	}
	return ""
}

// docker sets the Container Toolkit up. It is recorded apart from the driver, which
// is good whatever comes of this.
func (w *work) docker(ctx context.Context) (string, error) {
	had, err := recorded[docker.Installed](w.next.Docker)
	if err != nil {
		w.log.Warnf("%v; it is set up again", err)
	}
	in, err := docker.Setup(ctx, w.container, docker.Job{
		Driver: w.trace.Plan.Wanted, GPU: w.trace.Plan.Verify == "nvidia-smi", Had: had, Log: w.log,
	})
	if saved := w.save(&w.next.Docker, in); saved != nil && err == nil {
		err = saved
	}
	if err != nil {
		return "", fmt.Errorf("the driver is fine, the Container Toolkit is not: %w", err)
	}
	if len(in.Engines) == 0 {
		return "", nil
	}
	return "the Container Toolkit is set up for " + strings.Join(in.Engines, " and "), nil
}

func (w *work) removeDocker(ctx context.Context) (string, error) {
	had, err := recorded[docker.Installed](w.installed.Docker)
	if err != nil {
		return "", err
	}
	if err := docker.Undo(ctx, w.container, had); err != nil {
		return "", untouched("the Container Toolkit's configuration cannot be taken back", err)
	}
	return "took back the Container Toolkit's configuration", nil
}
