package hook

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Environment variables of the hook and of the command line.
const (
	EnvConfig   = "PVE_NVIDIA_HOOK_CONFIG"    // the configuration file
	EnvHostRoot = "PVE_NVIDIA_HOOK_HOST_ROOT" // the host's facts are read below it
)

// Call is Proxmox's door: a VMID and a phase. It returns the exit status: 0 done
// or nothing to do, 1 failed or refused, 2 wrong arguments. What may hang in a
// container is left to aside, which calls Work in another process.
func Call(ctx context.Context, args []string, aside func(context.Context) (int, error)) int {
	c, status := newCall(args)
	if status != 0 {
		return status
	}
	switch {
	case c.e.Phase == PhasePreStop || c.e.Phase == PhasePostStop:
		if (unit{c.e.VMID}).stop(ctx) {
			c.log.Info("the work in the background was ended, the next start does it again")
		}
	case c.e.Phase != PhasePostStart:
		// Nothing to do, and nothing may ever keep a guest from starting or
		// stopping: not even a configuration with mistakes.
	case c.err != nil:
		c.log.Fail(c.err)
		c.log.Info(Trace{Seconds: time.Since(c.began).Seconds()}.Truth())
		status = 1
	default:
		status = c.postStart(ctx, aside)
	}
	if c.inUnit {
		return status // the hook itself runs the other one
	}
	if other := chained(c.config, c.e.VMID); other != "" {
		if s := runChained(ctx, c.host, other, c.e, c.log); s != 0 {
			return s
		}
	}
	return status
}

// Work is what Call leaves to another process, with the same arguments.
func Work(ctx context.Context, args []string) int {
	c, status := newCall(args)
	switch {
	case status != 0:
		return status
	case c.err != nil:
		c.log.Fail(c.err)
		return 1
	}
	return c.postStart(ctx, nil)
}

// call is one call by Proxmox, or by the unit in which its work goes on.
type call struct {
	e      Event
	began  time.Time
	log    say.Log
	host   host.Host
	config *config.Config
	err    error // of the configuration
	inUnit bool
}

func newCall(args []string) (call, int) {
	log, err := say.New(os.Stderr, "text", "info")
	if err != nil {
		return call{}, 1 // cannot be: these names are right
	}
	c := call{began: time.Now(), host: host.Host{Root: os.Getenv(EnvHostRoot)}, inUnit: os.Getenv(EnvBackground) != ""}
	if c.e, err = ParseEvent(args); err != nil {
		log.Error(err)
		return c, 2
	}
	log.ToJournal()
	c.log = log.For(c.e.VMID)
	c.config, c.err = LoadConfig(os.Getenv(EnvConfig))
	return c, 0
}

func (c call) postStart(ctx context.Context, aside func(context.Context) (int, error)) int {
	t, err := postStart(ctx, c.e, Options{Config: c.config, Host: c.host, Log: c.log,
		Detach: !c.inUnit, Unit: c.inUnit, LookOnly: aside != nil})
	switch {
	case errors.Is(err, errAside):
		status, err := aside(ctx)
		if err != nil {
			c.log.Fail(err)
		}
		return status
	case err != nil:
		c.log.With("result", string(t.Result)).With("version", string(t.Plan.Wanted)).With("step", string(t.failed())).Fail(err)
		c.log.Info(t.Truth())
		return 1
	}
	return 0
}

// LoadConfig reads the configuration; file "" is the default one, which may be
// missing.
func LoadConfig(file string) (*config.Config, error) {
	return config.Load(file, config.Options{HostRoot: os.Getenv(EnvHostRoot), Named: file != ""})
}

// errAside means that a run which was only to look has found more to do.
var errAside = errors.New("there is more to do than to look")

// errStuck means that a run was given up.
var errStuck = errors.New("a system call on the container's files does not return")

// lateMost is how long a run may take to end after its deadline.
const lateMost = 30 * time.Second

// bounded runs f under a deadline. When f does not return some time after it, or
// is lost in a file system that the container serves itself (FUSE), f is left
// behind and the error is errStuck.
func bounded(ctx context.Context, limit time.Duration, lost <-chan struct{}, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stuck := hint.Wrap(errStuck, "look for a hanging FUSE mount in the container, or stop it")
	select {
	case err := <-done:
		return err
	case <-lost:
		return stuck
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-lost:
	case <-time.After(lateMost):
	}
	return stuck
}
