package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// together measures a node's boot: containers that all need the driver start at
// once. The time is that of the last one.
func together(ctx context.Context, s *stand) (section, error) {
	if err := s.deliver("auto"); err != nil {
		return section{}, err
	}
	file := filepath.Base(s.runFile)
	downloads := row{name: "downloads of " + hookName, unit: inCount}
	cold := func(command func(context.Context, *lab.Container) *exec.Cmd) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			if err := s.empty(); err != nil {
				return 0, err
			}
			return s.atOnce(ctx, command)
		}
	}
	warm := func(command func(context.Context, *lab.Container) *exec.Cmd) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			if err := s.fill(ctx); err != nil {
				return 0, err
			}
			return s.atOnce(ctx, command)
		}
	}
	rows, err := interleave(ctx, s, fmt.Sprintf("%d at once", s.together), s.bunches, []contender{
		{name: hookName + ", first install", kind: ours, run: func(ctx context.Context) (time.Duration, error) {
			before := s.Mirror.Gets(file)
			took, err := cold(s.hook)(ctx)
			downloads.samples = append(downloads.samples, float64(s.Mirror.Gets(file)-before))
			return took, err
		}},
		{name: shellName + ", first install", kind: theirs, run: cold(s.shell)},
		{name: hookName + ", run file cached", kind: ours, run: warm(s.hook)},
		{name: shellName + ", run file cached", kind: theirs, run: warm(s.shell)},
		{name: "nvidia-installers alone", kind: floor, run: func(ctx context.Context) (time.Duration, error) {
			return s.atOnce(ctx, s.installer, s.withTree())
		}},
	})
	return section{title: fmt.Sprintf("%d containers at once, until the last is done", s.together), rows: append(rows, downloads)}, err
}

// atOnce times as many installations as the options say, side by side.
func (s *stand) atOnce(ctx context.Context, command func(context.Context, *lab.Container) *exec.Cmd, config ...string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var guests []*lab.Container
	defer func() {
		for _, c := range guests {
			err = errors.Join(err, c.Close())
		}
	}()
	for range s.together {
		c, err := s.guest(ctx, config...)
		if err != nil {
			return 0, err
		}
		guests = append(guests, c)
	}
	if err := s.settle(); err != nil {
		return 0, err
	}
	failed := make([]error, len(guests))
	var group sync.WaitGroup
	began := time.Now()
	for i, c := range guests {
		group.Go(func() { _, failed[i] = timed(ctx, command(ctx, c), nil) })
	}
	group.Wait()
	took = time.Since(began)
	for i, c := range guests {
		if failed[i] == nil {
			failed[i] = check(ctx, c)
		}
	}
	return took, errors.Join(failed...)
}
