package cuda

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// manager is a package tool at work for a job.
type manager interface {
	setup(ctx context.Context) error // waits its turn, sets the repository up and fetches its index
	// prepare readies the tool to install names from the container's own repositories.
	prepare(ctx context.Context, names []string) error
	toolkits(ctx context.Context) ([]available, error) // that the repository has
	installed(ctx context.Context) ([]string, error)   // all packages by name
	// plan says what installing names would do, and why it cannot be done.
	plan(ctx context.Context, names []string) (plan, error)
	act(ctx context.Context, do action, names []string) error
	markWanted(ctx context.Context, names []string) error // marks packages as there for their own sake
	// unneeded are packages of ours that nothing needs, keep among what does.
	unneeded(ctx context.Context, keep []string) ([]string, error)
	// alsoAffected are the packages that the removal of names would touch besides.
	alsoAffected(ctx context.Context, names []string) ([]string, error)
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

// writeFile writes a file of ours and notes it, once more only when it differs.
func (j *job) writeFile(name, text string) error {
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

// removeFile removes a file that writeFile wrote, unless somebody has changed it since.
func (j *job) removeFile(name string) error {
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
