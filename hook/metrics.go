package hook

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/metrics"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// measure writes the run's numbers for Prometheus. The run does not fail when they
// cannot be written.
func (r *run) measure() {
	t := &r.trace
	paths := t.Settings.Paths
	if paths.Metrics == "" {
		return
	}
	has := Has{Driver: t.Facts.Container.Recorded}
	if t.Left != nil {
		has = *t.Left
	}
	if err := trust.MakeDir(paths.Run, 0o755); err != nil {
		r.Log.Warnf("%v", fmt.Errorf("run folder (paths.run): %w", err))
		return
	}
	err := metrics.File{
		Path:       paths.Metrics,
		Lock:       filepath.Join(paths.Run, "metrics.lock"),
		Runs:       filepath.Join(paths.State, "runs"),
		Containers: r.Host.Path("etc/pve/lxc"),
	}.Update(metrics.Run{
		VMID:      t.VMID,
		Ended:     t.At.Add(time.Duration(t.Seconds * float64(time.Second))),
		OK:        t.Result != Failed && t.Result != Refused,
		Duration:  time.Duration(t.Seconds * float64(time.Second)),
		Wanted:    t.Plan.Wanted,
		Installed: has.Driver,
		Shared:    has.Shared,
	}, t.Facts.Host.Module, t.Facts.Host.Arch != "" && t.Facts.Host.ModuleError == "")
	if err != nil {
		r.Log.Warnf("%v", err)
	}
}
