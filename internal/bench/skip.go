package main

import (
	"context"
	"os/exec"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lab"
)

// skip measures the usual case: a container starts whose driver is right.
func skip(ctx context.Context, s *stand) (section, error) {
	c, err := s.guest(ctx)
	if err != nil {
		return section{}, err
	}
	defer c.Close()
	if err := s.deliver("auto"); err != nil {
		return section{}, err
	}
	// With nothing else to do, the two must agree that all is well.
	if _, err := timed(ctx, s.hook(ctx, c), nil); err != nil {
		return section{}, err
	}
	if err := check(ctx, c); err != nil {
		return section{}, err
	}
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
