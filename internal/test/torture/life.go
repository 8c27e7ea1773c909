package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// event is something that happens to a container while the hook works on it.
type event struct {
	name string
	away func(context.Context, *guest) error
	back func(context.Context, *guest) error
}

var events = []event{
	{"stopped", func(_ context.Context, g *guest) error { return g.Stop() }, startAgain},
	{"its init killed", func(_ context.Context, g *guest) error { return unix.Kill(g.init, unix.SIGKILL) }, startAgain},
	{"frozen", func(ctx context.Context, g *guest) error { return g.lxc(ctx, "lxc-freeze") },
		func(ctx context.Context, g *guest) error { return g.lxc(ctx, "lxc-unfreeze") }},
	{"rebooted from inside", func(ctx context.Context, g *guest) error {
		// reboot(2), by its number on x86-64, from within the pid namespace. What
		// calls it ends with the container.
		_ = g.lxc(ctx, "lxc-attach", "--", "perl", "-e", "syscall(169, 0xfee1dead, 672274793, 0x1234567, 0)")
		return nil
	}, func(ctx context.Context, g *guest) error {
		was := g.init
		return within(20*time.Second, func() error {
			if err := g.know(ctx); err != nil || g.init == was {
				return fmt.Errorf("it does not come back: %w", err)
			}
			return nil
		})
	}},
	{"destroyed", func(_ context.Context, g *guest) error { return g.Close() }, func(ctx context.Context, g *guest) error {
		c, err := g.stand.lab.Container(ctx, g.Spec)
		if err != nil {
			return err
		}
		g.Container = c
		return startAgain(ctx, g)
	}},
}

func startAgain(ctx context.Context, g *guest) error {
	if err := within(20*time.Second, func() error { return g.lxc(ctx, "lxc-wait", "-s", "STOPPED", "-t", "1") }); err != nil {
		return err
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	return g.know(ctx)
}

// lxc runs one of LXC's programs for the container.
func (g *guest) lxc(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-P", g.LXCPath, "-n", strconv.Itoa(g.VMID)}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// The hook's deadlines while a container does not move: for the installer as it
// is set here, for nvidia-smi 90 s, and what ending them and cleaning up take.
const (
	lifeTimeout = "5s"
	lifeLimit   = 90*time.Second + 45*time.Second
)

// life lets every event happen in every part of a run.
func life(ctx context.Context, t *torture) (err error) {
	s, err := open(ctx, lab.Spec{}, lab.Spec{Privileged: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	k := &killer{stand: s, rng: rand.New(rand.NewPCG(t.seed, 2)), length: map[string]time.Duration{},
		timeout: lifeTimeout, call: []string{"replay", "--force"}}
	if err := k.measure(ctx, t); err != nil {
		return err
	}
	for _, e := range events {
		for _, at := range stretches {
			if err := ctx.Err(); err != nil {
				return err
			}
			r := t.table.at("life", e.name)
			for late, hit := 0, false; !hit; late++ {
				if late == 20 {
					return fmt.Errorf("%s while %s: the run is over each time, the machine is too uneven for these lengths", e.name, at.name)
				}
				var fault string
				var err error
				if hit, fault, err = k.happens(ctx, e, at); err != nil {
					return fmt.Errorf("%s while %s: %w", e.name, at.name, err)
				}
				if fault != "" { // whether it was hit or not
					r.failures = append(r.failures, fault)
					t.say("%s", fault)
				}
				if !hit {
					k.shorten(at)
				}
			}
			r.tries++
		}
		t.say("%s: done, %d failures", e.name, t.table.failures())
	}
	return nil
}

// happens lets an event happen at a moment of a run, waits for the hook's end,
// brings the container back and lets a normal run follow. hit is false when the
// run had ended before.
func (k *killer) happens(ctx context.Context, e event, at stretch) (hit bool, fault string, err error) {
	m, err := k.moment(ctx, at)
	if err != nil {
		return false, "", err
	}
	g, w := m.guest, m.watch
	select {
	case <-w.gone:
		if code := w.cmd.ProcessState.ExitCode(); code != 0 {
			return false, fmt.Sprintf("container %d: exit status %d before it was %s: %s", g.VMID, code, e.name, w.said()), k.restore(ctx, g)
		}
		return false, "", nil
	default:
	}
	if err := e.away(ctx, g); err != nil {
		w.kill()
		return false, "", err
	}
	began := time.Now()
	var wrong []string
	select {
	case <-w.gone:
	case <-time.After(lifeLimit):
		w.kill()
		wrong = append(wrong, fmt.Sprintf("the hook did not end within %v", lifeLimit))
	}
	took := time.Since(began)
	if strings.Contains(w.said(), "panic") {
		wrong = append(wrong, "it panicked")
	}
	if err := errors.Join(k.locksAreFree(), k.cacheIsWhole(k.whole), k.stateIsWhole()); err != nil {
		wrong = append(wrong, err.Error())
	}
	if err := e.back(ctx, g); err != nil {
		return true, "", err
	}
	// Only now: by cgroup v1 what is frozen dies when it thaws.
	if err := k.nothingRuns(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if _, err := g.claims(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if err := k.heal(ctx, g, m.version); err != nil {
		wrong = append(wrong, "after the next run: "+err.Error())
		if err := k.restore(ctx, g); err != nil {
			return true, "", err
		}
	}
	if len(wrong) == 0 {
		return true, "", nil
	}
	return true, fmt.Sprintf("container %d %s %v after the start of %s, the hook ended %v later: %s; it had said: %s", g.VMID, e.name,
		m.delay.Round(time.Microsecond), at.name, took.Round(time.Millisecond), strings.Join(wrong, "; "), w.said()), nil
}
