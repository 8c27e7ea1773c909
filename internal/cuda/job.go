package cuda

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// manager is a package tool at work for a job.
type manager interface {
	setup(ctx context.Context) error // waits its turn, sets the repository up and fetches its index
	// own readies the tool to install names from the container's own repositories.
	own(ctx context.Context, names []string) error
	toolkits(ctx context.Context) ([]available, error) // that the repository has
	installed(ctx context.Context) ([]string, error)   // all packages by name
	// plan says what installing names would do, and why it cannot be done.
	plan(ctx context.Context, names []string) (plan, error)
	act(ctx context.Context, do action, names []string, p plan) error
	keep(ctx context.Context, names []string) error // marks packages as there for their own sake
	// unneeded are packages of ours that nothing needs, keep among what does.
	unneeded(ctx context.Context, keep []string) ([]string, error)
	// along are the packages that the removal of names would touch besides.
	along(ctx context.Context, names []string) ([]string, error)
	begin(ctx context.Context) error // of a removal
	end(ctx context.Context) error   // of a removal: what setup left behind
}

// action is what act does.
type action string

const (
	actInstall   action = "install"
	actReinstall action = "reinstall"
	actRemove    action = "remove"
)

// job is one Install or Remove at work.
type job struct {
	ctx    context.Context
	c      Container
	w      Want
	log    Log
	distro Distro
	repo   string
	in     Installed // what is in the container by now
}

func newJob(ctx context.Context, c Container, w Want, log Log) (*job, context.CancelFunc) {
	orDefault := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	orDefault(&w.Timeout, 30*time.Minute)
	orDefault(&w.NetworkWait, 2*time.Minute)
	orDefault(&w.LockWait, 5*time.Minute)
	orDefault(&w.step, time.Second)
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	in := w.Had
	if !in.sane() {
		log.Warnf("the container's record of the toolkit is damaged: it counts for nothing")
		in = Installed{}
	}
	in.Added, in.Asked, in.Files = slices.Clone(in.Added), slices.Clone(in.Asked), slices.Clone(in.Files)
	return &job{ctx: ctx, c: c, w: w, log: log, in: in}, cancel
}

func (j *job) manager() manager {
	switch j.distro.Tool {
	case toolApt:
		return &apt{job: j}
	case toolDnf:
		return &dnf{rpm{job: j}}
	case toolZypper:
		return &zypper{rpm{job: j}}
	}
	return nil
}

// explain says of an error that a passed deadline is one.
func (j *job) explain(err error) error {
	if err != nil && errors.Is(j.ctx.Err(), context.DeadlineExceeded) {
		return hint.Wrap(fmt.Errorf("%s: not done within %s: %w", j.w.Name(), j.w.Timeout, err),
			"raise install.timeout; the next run takes up where this one stopped")
	}
	return err
}

func (j *job) save() error {
	if j.w.Save == nil {
		return nil
	}
	if err := j.w.Save(j.in); err != nil {
		return fmt.Errorf("note what is put into the container: %w", err)
	}
	return nil
}

// output is what a command in the container left behind.
type output struct {
	code   int
	stdout []byte
	lines  []string // the last ones of stdout and stderr, harmless
}

const keptLines = 400

// tail joins the last lines, errors and warnings first where there are any.
func (o output) tail(most int) string {
	var errs []string
	for _, l := range o.lines {
		if complaint().MatchString(l) {
			errs = append(errs, l)
		}
	}
	if len(errs) == 0 {
		for _, l := range o.lines {
			if strings.TrimSpace(l) != "" {
				errs = append(errs, l)
			}
		}
	}
	if len(errs) > most {
		errs = errs[len(errs)-most:]
	}
	for i, l := range errs {
		errs[i] = say.Clean(strings.TrimSpace(l), 300)
	}
	return strings.Join(errs, "; ")
}

func (o output) contains(parts ...string) bool {
	for _, l := range o.lines {
		for _, p := range parts {
			if strings.Contains(l, p) {
				return true
			}
		}
	}
	return false
}

// run runs a command in the container for as long as the job has.
func (j *job) run(ctx context.Context, args ...string) (output, error) {
	return j.watch(ctx, nil, args...)
}

// watch is run with a look at each line.
func (j *job) watch(ctx context.Context, look func(line string), args ...string) (output, error) {
	deadline, _ := j.ctx.Deadline()
	left := time.Until(deadline)
	if err := ctx.Err(); err != nil || left <= 0 {
		return output{}, cmpErr(err, context.DeadlineExceeded)
	}
	var o output
	j.log.Debugf("run in the container: %s", strings.Join(args, " "))
	// Package tools wait for each other, and for servers, without a word.
	began, quiet := time.Now(), 15*j.w.step
	silence, done := time.NewTicker(quiet), make(chan struct{})
	defer silence.Stop()
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-silence.C:
				j.log.Infof("%s in the container is at work for %s; it may wait for the network or for another package tool", toolOf(args), time.Since(began).Round(time.Second))
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
			silence.Reset(quiet)
			if look != nil {
				look(line)
			}
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

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// env lets package tools work without a person: no questions, no restart
// dialogue, messages in the language that is parsed here.
func (j *job) env() []string {
	env := []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "DEBIAN_PRIORITY=critical",
		"NEEDRESTART_MODE=a", "UCF_FORCE_CONFFOLD=1", "TERM=dumb", "HOME=/root"}
	if proxy := j.proxyInside(); proxy != "" {
		// The package tool's own proxy setting in the container goes before these.
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

// put writes a file of ours and notes it, once more only when it differs.
func (j *job) put(name, text string) error {
	sum := sha256.Sum256([]byte(text))
	f := File{Path: name, Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
	at := slices.IndexFunc(j.in.Files, func(f File) bool { return f.Path == name })
	old, err := j.c.ReadFile(name, 1<<20)
	if err == nil && string(old) == text && at >= 0 && j.in.Files[at] == f {
		return nil
	}
	if err := j.c.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", name, err)
	}
	if at < 0 {
		j.in.Files = append(j.in.Files, f)
	} else {
		j.in.Files[at] = f
	}
	if err := j.save(); err != nil {
		return err
	}
	if err := j.c.WriteFile(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// drop removes a file that put wrote, unless somebody has changed it since.
func (j *job) drop(name string) error {
	at := slices.IndexFunc(j.in.Files, func(f File) bool { return f.Path == name })
	if at < 0 {
		return nil
	}
	text, err := j.c.ReadFile(name, 1<<20)
	sum := sha256.Sum256(text)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || hex.EncodeToString(sum[:]) != j.in.Files[at].SHA256:
		j.log.Warnf("%s was changed by somebody else and stays", name)
	default:
		if err := j.c.Remove(name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	j.in.Files = slices.Delete(j.in.Files, at, at+1)
	return nil
}

// notAffected ends the hint of what costs only the toolkit.
const notAffected = "; the driver is not affected"

// patience is what retry does, in words.
type patience struct {
	what    string // is tried
	waiting string // for what
	hint    string // when it is given up; "": the error has its own
}

// lists is the patience with the package tool in the container.
var lists = patience{
	what:    "fetch the container's package lists",
	waiting: "trying again",
	hint:    "look whether the container has network and name resolution, and whether a proxy is needed" + notAffected,
}

// retry calls try until it succeeds or fails for good, at most NetworkWait long:
// at a boot the network may come after the containers.
func (j *job) retry(ctx context.Context, p patience, try func() (again bool, err error)) error {
	ends := time.Now().Add(j.w.NetworkWait)
	pause := j.w.step
	for n := 1; ; n++ {
		again, err := try()
		if err == nil || !again {
			return err
		}
		if time.Now().Add(pause).After(ends) {
			if err = fmt.Errorf("%s: given up after %s: %w", p.what, j.w.NetworkWait, err); p.hint != "" {
				err = hint.Wrap(err, p.hint)
			}
			return err
		}
		if n == 1 {
			j.log.Infof("%s: %v; %s for up to %s", p.what, err, p.waiting, j.w.NetworkWait)
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
