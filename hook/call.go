package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// Environment variables of the hook and of the command line.
const (
	EnvConfig   = "PVE_NVIDIA_HOOK_CONFIG"    // the configuration file
	EnvHostRoot = "PVE_NVIDIA_HOOK_HOST_ROOT" // the host's facts are read below it
)

// Call is Proxmox's door: a VMID and a phase. It returns the exit status: 0 done
// or nothing to do, 1 failed or refused, 2 wrong arguments. What may hang in a
// container is left to aside, which makes the same call, with a nil aside, in
// another process.
func Call(ctx context.Context, args []string, aside func(context.Context) (int, error)) int {
	log, err := say.New(os.Stderr, "text", "info")
	if err != nil {
		return 1 // cannot be: these names are right
	}
	e, err := ParseEvent(args)
	if err != nil {
		log.Error(err)
		return 2
	}
	began := time.Now()
	log.ToJournal()
	log = log.For(e.VMID)
	h := host.Host{Root: os.Getenv(EnvHostRoot)}
	c, err := LoadConfig(os.Getenv(EnvConfig))
	status := 0
	inUnit := os.Getenv(EnvBackground) != ""
	switch {
	case e.Phase == PhasePreStop || e.Phase == PhasePostStop:
		if (unit{e.VMID}).stop(ctx) {
			log.Info("the work in the background was ended, the next start does it again")
		}
	case e.Phase != PhasePostStart:
		// Nothing to do, and nothing may ever keep a guest from starting or
		// stopping: not even a configuration with mistakes.
	case err != nil:
		log.Fail(err)
		log.Info(Trace{Seconds: time.Since(began).Seconds()}.Truth())
		status = 1
	default:
		t, err := postStart(ctx, e, Options{Config: c, Host: h, Log: log, Detach: !inUnit, Unit: inUnit, Aside: aside, Locked: aside == nil})
		var done elsewhere
		switch {
		case errors.As(err, &done):
			status = done.status
			switch {
			case done.err == nil:
			case status == 0:
				log.Warnf("%v", done.err)
			default:
				log.Fail(done.err)
			}
			if errors.Is(done.err, worker.ErrUnconcluded) {
				log.Info(t.Truth())
			}
		case err != nil:
			log.With("result", string(t.Result)).With("version", string(t.Plan.Wanted)).With("step", string(t.failed())).Fail(err)
			log.Info(t.Truth())
			status = 1
		}
	}
	if inUnit || aside == nil {
		return status // who called this one runs the other one
	}
	if other := chained(c, e.VMID); other != "" {
		if s := runChained(ctx, h, other, e, log); s != 0 {
			return s
		}
	}
	return status
}

// LoadConfig reads the configuration; file "" is the default one, which may be
// missing.
func LoadConfig(file string) (*config.Config, error) {
	return config.Load(file, config.Options{HostRoot: os.Getenv(EnvHostRoot), Named: file != ""})
}

// errAside means that a run which was only to look has found more to do.
var errAside = errors.New("there is more to do than to look")

// elsewhere is how a run ended that was left to another process.
type elsewhere struct {
	status int
	err    error // what that process could not say itself
}

func (e elsewhere) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// errStuck means that a run was given up.
var errStuck = errors.New("a system call on the container's files does not return")

// How long a run may take to end after its deadline, and when it is told to end:
// after that the program ends in any case, and has a trace to write before.
const (
	lateMost = 30 * time.Second
	lateSoon = 1700 * time.Millisecond
)

// bounded runs f under a deadline. When f does not return some time after it, or
// is lost in a file system that the container serves itself (FUSE), f is left
// behind and the error is errStuck.
func bounded(parent context.Context, limit time.Duration, lost <-chan struct{}, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(parent, limit)
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
	late := lateMost
	if parent.Err() != nil {
		late = lateSoon
	}
	select {
	case err := <-done:
		return err
	case <-lost:
	case <-time.After(late):
	}
	return stuck
}
