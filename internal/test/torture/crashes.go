package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// stretch is a part of a run from which moments are drawn. It begins with a line
// that the hook says, or with a file that appears, and lasts until the next one.
type stretch struct {
	name string
	lost string // what of the wanted version is taken out of the cache before: "", "tree" or "all"
	line string // the hook has said this; "": since its start
	file string // and then this has appeared in the container; "": at once
	ends string // line at its end; "": the end of the process
	stop string // or the file at its end
}

// The installer's log appears when it begins to copy.
const begun = "var/lib/nvidia/log"

// stretches are in the order of a run; together they cover it.
var stretches = []stretch{
	{name: "fetching", lost: "all", ends: "fetched "},
	{name: "unpacking", lost: "tree", ends: "removed driver"},
	{name: "removing the old driver", ends: "removed driver"},
	{name: "handing over", line: "removed driver", stop: begun},
	{name: "installing", line: "removed driver", file: begun, ends: "nvidia-installer "},
	{name: "verifying", line: "nvidia-installer ", ends: " files are in place"},
	{name: "recording", line: " files are in place", stop: record.Path},
	{name: "keeping the trace", line: " files are in place", file: record.Path},
}

// The steps get lengths that can be hit: the transfer of 3 MB takes half a
// second, and so does the installer.
const (
	crashRate = 6 << 20
	crashSlow = "slow=0.005"
)

// crashes kills the hook at random moments and lets a normal run follow each.
func crashes(ctx context.Context, t *torture) (err error) {
	s, err := open(ctx, lab.Spec{}, lab.Spec{Privileged: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	k := &killer{stand: s, rng: rand.New(rand.NewPCG(t.seed, 1)), length: map[string]time.Duration{}}
	if err := k.measure(ctx, t); err != nil {
		return err
	}
	began, late := time.Now(), 0 // late came after the run's end
	for n := 0; n < t.kills; {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := stretches[n%len(stretches)]
		hit, fault, err := k.kill(ctx, at, n)
		if err != nil {
			return fmt.Errorf("kill %d, %s: %w", n, at.name, err)
		}
		r := t.table.at("crashes", "killed while "+at.name)
		if fault != "" { // whether it was hit or not
			r.failures = append(r.failures, fault)
			t.say("kill %d: %s", n, fault)
		}
		if !hit {
			k.shorten(at)
			if late++; late > 20+t.kills {
				return fmt.Errorf("%d kills came too late, the machine is too uneven for these lengths", late)
			}
			continue
		}
		n++
		r.tries++
		if n%50 == 0 {
			t.say("%d kills, %d failures, %.2f s each; %d more came after the end", n, t.table.failures(), time.Since(began).Seconds()/float64(n), late)
		}
	}
	return nil
}

// killer kills one run after the other. The wanted version changes each time, so
// that every run has an old driver to remove.
type killer struct {
	*stand
	rng     *rand.Rand
	length  map[string]time.Duration // of the stretches, by name and delivery
	whole   whole
	timeout string   // of the installer; "" the usual one
	call    []string // words before VMID and phase of a healing run
}

// next makes all ready for a run: the version, the delivery, the container.
func (k *killer) next(at stretch) (g *guest, version, deliver string, err error) {
	g = k.guests[k.rng.IntN(len(k.guests))]
	deliver = []string{"mount", "push"}[k.rng.IntN(2)]
	version = versions[0]
	if had, _ := g.claims(); had == version {
		version = versions[1]
	}
	errs := []error{k.Module(version), k.Configure(fmt.Sprintf("[install]\ndeliver = %q\ntimeout = %q\n", deliver, cmp.Or(k.timeout, "1m"))), g.fault(crashSlow)}
	base := filepath.Join(k.Cache(), "NVIDIA-Linux-x86_64-"+version)
	switch at.lost {
	case "tree":
		errs = append(errs, os.RemoveAll(base))
	case "all":
		found, err := filepath.Glob(base + "*")
		errs = append(errs, err)
		for _, name := range found {
			errs = append(errs, os.RemoveAll(name))
		}
	}
	k.Mirror.Rate = crashRate
	return g, version, deliver, errors.Join(errs...)
}

// shorten is called when a run was quicker than the one that was measured.
func (k *killer) shorten(at stretch) {
	for _, deliver := range []string{"mount", "push"} {
		k.length[at.name+deliver] = k.length[at.name+deliver] * 95 / 100
	}
}

// measure learns how long the stretches last, and what a whole cache looks like.
func (k *killer) measure(ctx context.Context, t *torture) error {
	for _, g := range k.guests {
		for _, v := range versions {
			if err := errors.Join(k.Module(v), k.heal(ctx, g, v)); err != nil {
				return fmt.Errorf("a run without any fault: %w", err)
			}
		}
	}
	var err error
	if k.whole, err = k.learn(); err != nil {
		return err
	}
	for _, at := range stretches {
		for k.length[at.name+"mount"] == 0 || k.length[at.name+"push"] == 0 {
			g, _, deliver, err := k.next(at)
			if err != nil {
				return err
			}
			w, err := k.watch(ctx, g)
			if err != nil {
				return err
			}
			began, err := w.until(ctx, g, at.line, at.file)
			if err != nil {
				w.kill()
				return fmt.Errorf("measure %s: %w", at.name, err)
			}
			ended, err := w.until(ctx, g, at.ends, at.stop)
			if at.ends == "" && at.stop == "" {
				<-w.gone
				ended, err = time.Now(), nil
			}
			if err != nil {
				w.kill()
				return fmt.Errorf("measure %s: %w", at.name, err)
			}
			<-w.gone
			if code := w.cmd.ProcessState.ExitCode(); code != 0 {
				return fmt.Errorf("measure %s: exit status %d: %s", at.name, code, w.said())
			}
			k.length[at.name+deliver] = max(ended.Sub(began), time.Millisecond)
		}
		t.say("%s takes %v by mount, %v by push", at.name,
			k.length[at.name+"mount"].Round(100*time.Microsecond), k.length[at.name+"push"].Round(100*time.Microsecond))
	}
	return nil
}

// moment is a random moment of a run.
type moment struct {
	guest            *guest
	watch            *watched
	version, deliver string
	delay            time.Duration // since the start of the stretch
}

// moment starts a run and waits for a random moment of the stretch, or the run's end.
func (k *killer) moment(ctx context.Context, at stretch) (m moment, err error) {
	if m.guest, m.version, m.deliver, err = k.next(at); err != nil {
		return m, err
	}
	m.delay = time.Duration(k.rng.Float64() * float64(k.length[at.name+m.deliver]))
	if m.watch, err = k.watch(ctx, m.guest); err != nil {
		return m, err
	}
	if _, err := m.watch.until(ctx, m.guest, at.line, at.file); err == nil {
		select {
		case <-m.watch.gone:
		case <-time.After(m.delay):
		}
	}
	return m, nil
}

// kill starts a run, kills it at a moment of the stretch, and checks what must be
// true at once and after a normal run. hit is false when the run had ended.
func (k *killer) kill(ctx context.Context, at stretch, n int) (hit bool, fault string, err error) {
	m, err := k.moment(ctx, at)
	if err != nil {
		return false, "", err
	}
	g, w := m.guest, m.watch
	hit = w.kill()
	where := fmt.Sprintf("container %d, %s by %s, %v after the start of %s", g.VMID, m.version, m.deliver, m.delay.Round(time.Microsecond), at.name)
	wrong := func(when string, err error) string {
		return fmt.Sprintf("%s: %s: %v; it had said: %s", where, when, err, w.said())
	}
	if code := w.cmd.ProcessState.ExitCode(); !hit && code != 0 {
		return hit, wrong("before any kill", fmt.Errorf("exit status %d", code)), k.restore(ctx, g)
	}
	if _, err := g.claims(); err != nil {
		return hit, wrong("right after the kill", err), k.restore(ctx, g)
	}
	if err := errors.Join(k.cacheIsWhole(k.whole), k.stateIsWhole(), within(2*time.Second, k.locksAreFree)); err != nil {
		return hit, wrong("right after the kill", err), k.restore(ctx, g)
	}
	if err := k.heal(ctx, g, m.version); err != nil {
		return hit, wrong("after the next run", err), k.restore(ctx, g)
	}
	return hit, "", nil
}

// heal is the normal run: it must succeed and leave nothing.
func (k *killer) heal(ctx context.Context, g *guest, version string) error {
	k.Mirror.Rate = 0
	if err := g.fault(""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	said, err := k.Run(ctx, append(k.call, strconv.Itoa(g.VMID), "post-start")...)
	if err != nil || said.Code != 0 {
		return fmt.Errorf("exit status %d, %v: %s", said.Code, err, said.Text)
	}
	if err := g.holds(ctx, version); err != nil {
		return err
	}
	if k.whole != nil {
		if err := k.cacheIsWhole(k.whole); err != nil {
			return err
		}
	}
	return errors.Join(k.cacheHolds(version), k.told(g.VMID, version), k.nothingHalf(), k.noTemporaries(), k.locksAreFree(), k.nothingRuns())
}

// restore makes a good state by force after a failure, so that the next kill
// begins with one.
func (k *killer) restore(ctx context.Context, g *guest) error {
	collector := filepath.Dir(k.Metrics)
	err := errors.Join(os.RemoveAll(k.Cache()), os.RemoveAll(k.Path("state")), os.RemoveAll(collector), os.Mkdir(collector, 0o755), g.forget())
	for _, v := range versions {
		err = errors.Join(err, k.Module(v))
		k.Mirror.Rate = 0
		err = errors.Join(err, g.fault(""))
		said, failed := k.Hook(ctx, g.VMID, "post-start")
		if failed != nil || said.Code != 0 {
			err = errors.Join(err, failed, fmt.Errorf("even a fresh start fails: %s", said.Text))
		}
	}
	left, _ := filepath.Glob(g.file(record.Folder, ".*"))
	for _, name := range left {
		err = errors.Join(err, os.RemoveAll(name))
	}
	return err
}

// watched is a running hook whose lines are read as they come.
type watched struct {
	cmd   *exec.Cmd
	lines chan string
	gone  chan struct{}
	all   strings.Builder // of the reading goroutine until gone
	begin time.Time
}

func (k *killer) watch(ctx context.Context, g *guest) (*watched, error) {
	w := &watched{lines: make(chan string, 1000), gone: make(chan struct{}), begin: time.Now()}
	w.cmd = k.Command(ctx, strconv.Itoa(g.VMID), "post-start")
	out, err := w.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.gone)
		for r := bufio.NewScanner(out); r.Scan(); {
			w.all.WriteString(r.Text() + "\n")
			select {
			case w.lines <- r.Text():
			default:
			}
		}
		_ = w.cmd.Wait() // its status is asked of ProcessState
	}()
	return w, nil
}

// until waits for a line and then for a file in the container, and returns when
// that was. Empty ones are there at once.
func (w *watched) until(ctx context.Context, g *guest, line, file string) (time.Time, error) {
	for at := w.begin; ; at = time.Now() {
		if line == "" {
			if file == "" {
				return at, nil
			}
			break
		}
		select {
		case text := <-w.lines:
			if strings.Contains(text, line) {
				line = ""
			}
		case <-w.gone:
			return at, fmt.Errorf("the hook ended without %q: %s", line, w.said())
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
	for {
		if _, err := os.Lstat(g.file(file)); err == nil {
			return time.Now(), nil
		}
		select {
		case <-w.gone:
			return time.Now(), fmt.Errorf("the hook ended without %s", file)
		case <-time.After(500 * time.Microsecond):
		}
	}
}

// kill ends the hook by SIGKILL and reports whether that is what ended it.
func (w *watched) kill() bool {
	err := w.cmd.Process.Kill()
	<-w.gone
	return err == nil && w.cmd.ProcessState.ExitCode() == -1
}

func (w *watched) said() string {
	<-w.gone
	return w.all.String()
}
