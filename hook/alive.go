package hook

import (
	"context"
	"errors"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// errGone means that the container's init process ended while it was worked on.
var errGone = errors.New("the container stopped meanwhile")

// aliveEvery is the time between two checks that the container still runs.
const aliveEvery = 500 * time.Millisecond

// whileAlive calls f with a context that ends when the container stops: nothing else
// would end a download for it. Then the error is errGone.
func whileAlive(ctx context.Context, alive func() bool, f func(context.Context) error) error {
	limited, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-limited.Done():
				return
			case <-time.After(aliveEvery):
			}
			if !alive() {
				cancel(errGone)
				return
			}
		}
	}()
	err := f(limited)
	cancel(nil)
	<-ended // so that alive is not called any more
	if err != nil && ctx.Err() == nil && (errors.Is(err, lxc.ErrNotRunning) || !alive()) {
		return hint.Wrap(errGone, "the next start does it again")
	}
	return err
}
