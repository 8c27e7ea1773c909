package cuda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// output is what a command in the container left behind.
type output struct {
	code   int
	stdout []byte
	lines  []string // the last ones of stdout and stderr, harmless
}

const keptLines = 400

// tail joins the last lines: errors and warnings where there are any.
func (o output) tail(most int) string {
	var all, errs []string
	for _, l := range o.lines {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		all = append(all, say.Clean(l, 300))
		if complaint().MatchString(l) {
			errs = append(errs, say.Clean(l, 300))
		}
	}
	if len(errs) > 0 {
		all = errs
	}
	return strings.Join(all[max(0, len(all)-most):], "; ")
}

// run runs a command in the container for as long as the job has, and tells the
// log every now and then what it is at.
func (j *job) run(ctx context.Context, args ...string) (output, error) {
	deadline, _ := j.ctx.Deadline()
	left := time.Until(deadline)
	if err := ctx.Err(); err != nil || left <= 0 {
		return output{}, cmp.Or(err, context.DeadlineExceeded)
	}
	j.log.Debugf("run in the container: %s", strings.Join(args, " "))
	var o output
	var last atomic.Value
	last.Store("it has said nothing yet")
	done := make(chan struct{})
	defer close(done)
	go func() {
		began, tick := time.Now(), time.NewTicker(15*j.w.step)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				j.log.Infof("%s in the container is at work for %s: %s", toolOf(args), time.Since(began).Round(time.Second), last.Load())
			}
		}
	}()
	res, err := j.c.Run(ctx, lxc.Cmd{
		Args:    args,
		Env:     j.env(),
		Timeout: left,
		Keep:    8 << 20, // the index of a big repository is listed in some 100 KiB
		OnLine: func(line string) {
			if len(o.lines) == keptLines {
				o.lines = append(o.lines[:0], o.lines[keptLines/2:]...)
			}
			o.lines = append(o.lines, line)
			last.Store(say.Clean(strings.TrimSpace(line), 200))
		},
	})
	o.code, o.stdout = res.Code, res.Stdout
	if err != nil {
		return o, fmt.Errorf("run %s in the container: %w", args[0], err)
	}
	if o.code == 127 {
		return o, hint.Wrap(fmt.Errorf("%s: not found in the container", args[0]),
			"the container's os-release names another operating system than it has")
	}
	return o, nil
}

// toolOf is the program of a command line, without env before it.
func toolOf(args []string) string {
	if args[0] == "env" && len(args) > 2 {
		return args[2]
	}
	return args[0]
}

// env lets package tools work without a person: no questions, no restart
// dialogue, messages in the language that is parsed here.
func (j *job) env() []string {
	env := []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "DEBIAN_PRIORITY=critical",
		"NEEDRESTART_MODE=a", "UCF_FORCE_CONFFOLD=1", "TERM=dumb", "HOME=/root"}
	if proxy := j.proxyInside(); proxy != "" {
		// The package tool's own proxy setting in the container overrides these.
		env = append(env, "http_proxy="+proxy, "https_proxy="+proxy, "no_proxy=localhost,127.0.0.1,::1")
	}
	return env
}

// proxyInside is the proxy for programs in the container, whose root reads their
// environment in /proc: none that holds a login of the host's.
func (j *job) proxyInside() string {
	if u, err := url.Parse(j.w.Proxy); err != nil || u.Host == "" || u.User != nil {
		return ""
	}
	return j.w.Proxy
}

// notAffected ends the hint of what costs only the toolkit.
const notAffected = "; the driver is not affected"

// patience says how long something is tried, and the words for it.
type patience struct {
	most    time.Duration
	what    string // is tried
	waiting string // for what
	hint    string // when it is given up; "": the error has its own
}

const listsHint = "look whether the container has network and name resolution, and whether a proxy is needed" + notAffected

// lists is the patience with servers and networks: at a boot the network may
// come after the containers.
func (j *job) lists() patience {
	return patience{j.w.NetworkWait, "fetch the container's package lists", "trying again", listsHint}
}

// retry calls try until it succeeds or fails for good.
func (j *job) retry(ctx context.Context, p patience, try func() (again bool, err error)) error {
	ends := time.Now().Add(p.most)
	pause := j.w.step
	for n := 1; ; n++ {
		again, err := try()
		if err == nil || !again {
			return err
		}
		if time.Now().Add(pause).After(ends) {
			if err = fmt.Errorf("%s: given up after %s: %w", p.what, p.most, err); p.hint != "" {
				err = hint.Wrap(err, p.hint)
			}
			return err
		}
		if n == 1 {
			j.log.Infof("%s: %v; %s for up to %s", p.what, err, p.waiting, p.most)
		} else {
			j.log.Debugf("%s: %v", p.what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %v)", p.what, ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*j.w.step)
	}
}

// busy is what package tools say while another one works in the container.
var busy = lazy.Regexp(`^(E|Error): (Could not get lock|Unable to (lock|acquire))|^dpkg: error: .* locked by another process|can\S{1,6}t create \w+ lock|System management is locked`)

// change runs a command that changes packages, again while another package tool
// holds the lock that it needs.
func (j *job) change(ctx context.Context, args ...string) (out output, err error) {
	p := patience{j.w.LockWait, toolOf(args), "waiting for another package tool in the container", "let it come to its end, or end it, and run this again"}
	err = j.retry(ctx, p, func() (bool, error) {
		out, err = j.run(ctx, args...)
		if at := slices.IndexFunc(out.lines, busy().MatchString); err == nil && out.code != 0 && at >= 0 {
			return true, errors.New(say.Clean(out.lines[at], 300))
		}
		return false, err
	})
	return out, err
}

// fetchLists lets the package tool fetch its lists, again and again while the
// network or another package tool stands in the way.
func (j *job) fetchLists(ctx context.Context, try func() (v verdict, about string, err error)) error {
	broken := 0
	return j.retry(ctx, j.lists(), func() (bool, error) {
		v, about, err := try()
		if err != nil || v == fine {
			return false, err
		}
		switch v {
		case lockedOut, unreachable:
			return true, errors.New(say.Clean(about, 400))
		case brokenIndex:
			broken++ // a mirror in the middle of an update heals within moments
		}
		return v == brokenIndex && broken < 3, j.blame(v, j.distro.Tool+" update", about)
	})
}
