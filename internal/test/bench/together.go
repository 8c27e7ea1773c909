package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
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
			return last(s.atOnce(ctx, s.together, command))
		}
	}
	warm := func(command func(context.Context, *lab.Container) *exec.Cmd) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			if err := s.fill(ctx); err != nil {
				return 0, err
			}
			return last(s.atOnce(ctx, s.together, command))
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
			return last(s.atOnce(ctx, s.together, s.installer, s.withTree()))
		}},
	})
	return section{title: fmt.Sprintf("%d containers at once, until the last is done", s.together), rows: append(rows, downloads)}, err
}

// last is the time until the last of several is done.
func last(took []time.Duration, err error) (time.Duration, error) {
	if err != nil {
		return 0, err
	}
	return slices.Max(took), nil
}

// crowd measures when the first, the middle and the last of many containers that
// start at once have their driver.
func crowd(ctx context.Context, s *stand) (section, error) {
	if err := s.deliver("auto"); err != nil {
		return section{}, err
	}
	if err := s.fill(ctx); err != nil {
		return section{}, err
	}
	done := section{title: fmt.Sprintf("%d containers at once, run file cached", s.crowd)}
	for _, c := range []struct {
		name    string
		kind    kind
		command func(context.Context, *lab.Container) *exec.Cmd
		config  []string
	}{
		{hookName, ours, s.hook, nil},
		{"nvidia-installers alone", floor, s.installer, []string{s.withTree()}},
	} {
		took, err := s.atOnce(ctx, s.crowd, c.command, c.config...)
		if err != nil {
			return done, err
		}
		slices.Sort(took)
		for i, what := range []string{"first", "middle", "last"} {
			at := took[i*(len(took)-1)/2].Seconds()
			done.rows = append(done.rows, row{name: c.name + ", the " + what + " is done", kind: c.kind, samples: []float64{at}})
		}
	}
	return done, nil
}

// atOnce does count installations side by side and tells how long each took.
func (s *stand) atOnce(ctx context.Context, count int, command func(context.Context, *lab.Container) *exec.Cmd, config ...string) (took []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var guests []*lab.Container
	defer func() {
		for _, c := range guests {
			err = errors.Join(err, c.Close())
		}
	}()
	for range count {
		c, err := s.guest(ctx, config...)
		if err != nil {
			return nil, err
		}
		guests = append(guests, c)
	}
	if err := s.settle(); err != nil {
		return nil, err
	}
	took = make([]time.Duration, count)
	failed := make([]error, len(guests))
	var group sync.WaitGroup
	for i, c := range guests {
		group.Go(func() { took[i], failed[i] = timed(ctx, command(ctx, c), nil) })
	}
	group.Wait()
	for i, c := range guests {
		if failed[i] == nil {
			failed[i] = check(ctx, c)
		}
	}
	return took, errors.Join(failed...)
}
