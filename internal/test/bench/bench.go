package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/machine"
)

// A part of the bench measures one question and fills one section of the table.
type part struct {
	key     string
	measure func(context.Context, *stand) (section, error)
}

func parts() []part {
	return []part{
		{"skip", skip},
		{"warm", warm},
		{"capabilities", capabilities},
		{"start", begin},
		{"cold", cold},
		{"together", together},
		{"crowd", crowd},
		{"space", space},
		{"node", node},
	}
}

func keys() []string {
	var all []string
	for _, p := range parts() {
		all = append(all, p.key)
	}
	return all
}

func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	r := report{at: time.Now(), machine: machine.Look(), options: o}
	s, err := open(ctx, o, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r.sample = s.describe()
	for _, p := range parts() {
		if len(o.only) > 0 && !slices.Contains(o.only, p.key) {
			continue
		}
		done, err := p.measure(ctx, s)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("measure %s: %w", p.key, err)
		}
		done.key = p.key
		r.sections = append(r.sections, done)
	}
	r.judge()
	if _, err := io.WriteString(out, r.text()); err != nil {
		return err
	}
	if o.markdown != "" {
		if err := os.WriteFile(o.markdown, []byte(r.markdown()), 0o644); err != nil {
			return err
		}
	}
	if o.svg != "" {
		return os.WriteFile(o.svg, []byte(chart(r)), 0o644)
	}
	return nil
}

// A contender is one way to do what a part measures.
type contender struct {
	name string
	note string
	kind kind
	run  func(context.Context) (time.Duration, error)
}

// interleave lets the contenders take turns, so that what else the machine does
// meanwhile meets all alike. Every round starts with another one.
func interleave(ctx context.Context, s *stand, title string, rounds int, list []contender) ([]row, error) {
	rows := make([]row, len(list))
	for i, c := range list {
		rows[i] = row{name: c.name, note: c.note, kind: c.kind, unit: inSeconds}
	}
	for round := range rounds {
		s.say("%s, round %d of %d", title, round+1, rounds)
		for i := range list {
			i = (i + round) % len(list)
			took, err := list[i].run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list[i].name, err)
			}
			rows[i].samples = append(rows[i].samples, took.Seconds())
		}
	}
	return rows, nil
}

// settle writes out what earlier work has left in memory: nobody pays for
// another's writes.
func (s *stand) settle() error {
	dir, err := os.Open(s.lab.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the disk: %w", err)
	}
	return nil
}
