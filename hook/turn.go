package hook

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// How long an installation waits for others on this node, and how long it does in the
// background, as at the boot of a node with many containers. Then it begins all the same:
// a container whose installer hangs must not hold up the rest.
var (
	turnWait     = 2 * time.Minute
	turnWaitUnit = 10 * time.Minute
)

// turns is how many installations run at once on this node: one loads a core and
// the disk. With all at once the first would be done as late as the last.
func turns() int { return min(max(runtime.NumCPU()/2, 2), 6) }

// turn waits until few enough installations run on this node. The wait does not count
// for the time-out of the installation. At its end it returns no lock: then one more
// installation runs.
func (r *run) turn(ctx context.Context) (*lock.Lock, error) {
	began, said, limit := time.Now(), false, turnWait
	if r.InUnit {
		limit = turnWaitUnit
	}
	for {
		for n := range turns() {
			file := filepath.Join(r.settings.Paths.Run, fmt.Sprintf("install-%d.lock", n))
			held, err := lock.Take(ctx, file, lock.Options{Holder: fmt.Sprintf("container %d", r.trace.VMID)})
			if err == nil {
				if said {
					r.Log.Infof("waited %s for other installations", seconds(time.Since(began).Seconds()))
				}
				return held, nil
			}
			if !errors.Is(err, lock.ErrBusy) {
				return nil, err
			}
		}
		if !said && time.Since(began) > 200*time.Millisecond {
			r.Log.Infof("waiting for %s on this node", say.Count(turns(), "other installation"))
			said = true
		}
		if time.Since(began) > limit {
			r.Log.Infof("the other installations take long, so this one starts now")
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, interrupted{fmt.Errorf("wait for other installations: %w", ctx.Err())}
		case <-time.After(50 * time.Millisecond):
		}
	}
}
