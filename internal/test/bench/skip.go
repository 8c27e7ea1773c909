package main

import (
	"context"
	"errors"
	"os/exec"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// skip measures the usual case: a container starts whose driver is right.
func skip(ctx context.Context, s *stand) (section, error) {
	if err := s.deliver("auto"); err != nil {
		return section{}, err
	}
	c, err := s.withDriver(ctx, lab.Spec{})
	if err != nil {
		return section{}, err
	}
	defer c.Close()
	call := func(command func(context.Context, *lab.Container) *exec.Cmd) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) { return timed(ctx, command(ctx, c), nil) }
	}
	if err := s.settle(); err != nil {
		return section{}, err
	}
	rows, err := interleave(ctx, s, "nothing to do", s.skips, []contender{
		{name: hookName, kind: ours, run: call(s.hook)},
		{name: shellName, kind: theirs, run: call(s.shell)},
		{name: "lxc-attach with nvidia-smi alone", kind: floor, note: "a sample nvidia-smi that opens no GPU, as in the shell hook",
			run: call(s.smi)},
		{name: "lxc-info alone", kind: floor, run: call(s.lxcInfo)},
	})
	return section{title: "Nothing to do: the driver is in place", rows: rows}, err
}

// withDriver makes a container that has its driver. With nothing else to do, the
// two must agree that all is well.
func (s *stand) withDriver(ctx context.Context, spec lab.Spec) (*lab.Container, error) {
	c, err := s.guestOf(ctx, spec)
	if err != nil {
		return nil, err
	}
	if _, err = timed(ctx, s.hook(ctx, c), nil); err == nil {
		err = check(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
