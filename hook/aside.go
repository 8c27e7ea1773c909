package hook

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// Aside has a worker do a job that is a run and whose trace it tells.
func Aside(work worker.Work, job worker.Job) func(context.Context) (Trace, error) {
	return func(ctx context.Context) (Trace, error) {
		report, err := work(ctx, job)
		switch {
		case errors.Is(err, worker.ErrUnconcluded):
			return Trace{}, err
		case len(report.Told) == 0 && report.Status != 0:
			// What was found before it began is no more, and it has said so itself.
			return Trace{Result: Failed}, err
		}
		t, wrong := ReadTrace(bytes.NewReader(report.Told))
		if wrong != nil || t.Bad() != (report.Status != 0) {
			return Trace{}, worker.Unconcluded("the process that worked on the container has not told what came of it")
		}
		return t, err
	}
}

// goAside lets another process do the run. One that could not conclude it has that
// done here.
func (r *run) goAside(ctx context.Context) (Trace, error) {
	instead := r.instead()
	if r.container == nil || r.container.Beyond() { // what it has seen of the container is not all
		instead.trace.Facts.Host, instead.trace.Plan.Wanted = r.trace.Facts.Host, r.trace.Plan.Wanted
	} else {
		instead.trace.Facts, instead.trace.Plan = r.trace.Facts, r.trace.Plan
	}
	if err := plainly(ctx, ctx.Err()); err != nil {
		instead.conclude(err)
		return instead.trace, err
	}
	limit := r.limit(r.trace.VMID) + 2*lateMost
	if r.Unit {
		limit *= unitTries
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t, err := r.Aside(ctx)
	if errors.Is(err, worker.ErrUnconcluded) {
		instead.trace.Unknown = !r.DryRun && !errors.Is(err, worker.ErrNotBegun)
		instead.conclude(err)
		return instead.trace, err
	}
	t.VMID = r.trace.VMID // also where it has told nothing
	return t, err
}

// abandoned concludes a run whose story does not return. All of r but what it was
// given still belongs to that.
func (r *run) abandoned(err error) Trace {
	instead := r.instead()
	instead.trace.Unknown = !r.DryRun && r.Aside == nil // else it has only looked
	instead.conclude(err)
	return instead.trace
}

// instead is a run that stands for this one at its end.
func (r *run) instead() *run {
	instead := &run{Options: r.Options, began: r.began}
	instead.trace = Trace{Program: version.Program, At: r.began, VMID: r.trace.VMID, Phase: r.trace.Phase}
	if s, wrong := r.Config.For(r.trace.VMID); wrong == nil {
		instead.settings, instead.trace.Settings = s, s.Redacted()
	}
	return instead
}

// errAside means that a run which was only to look has found more to do.
var errAside = errors.New("there is more to do than to look")

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
