package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// work is what the steps of a plan hand to each other.
type work struct {
	*run
	entry     *cache.Entry
	delivered string
	next      record.Installed // the record to be
}

// do runs the steps of the plan.
func (r *run) do(ctx context.Context) error { return r.doThese(ctx, r.trace.Plan.Steps) }

// doThese runs steps of the plan, in order, and stops at the first that fails.
func (r *run) doThese(ctx context.Context, steps []Step) error {
	r.Log.Infof("%s", r.trace.Plan.Why)
	if err := r.tidy(ctx); err != nil {
		return err
	}
	w := &work{run: r}
	if r.installed != nil {
		w.next = *r.installed
	}
	defer func() {
		if w.entry != nil {
			w.entry.Release()
		}
	}()
	for _, step := range steps {
		began := time.Now()
		note, err := w.step(ctx, step)
		o := Outcome{Step: step, Note: note, Seconds: time.Since(began).Seconds()}
		if err != nil {
			o.Error = err.Error()
		}
		r.trace.Steps = append(r.trace.Steps, o)
		if err != nil {
			return w.explain(ctx, err)
		}
		if note != "" {
			r.Log.With("step", string(step)).Infof("%s (%s)", note, seconds(o.Seconds))
		}
	}
	return nil
}

// tidy ends and takes away what an earlier run that was killed has left in the
// container.
func (r *run) tidy(ctx context.Context) error {
	killed, err := r.container.KillStrays(ctx)
	if err != nil {
		return fmt.Errorf("end what an earlier run left in the container: %w", err)
	}
	if killed > 0 {
		r.Log.Infof("ended %s that an earlier run had left in the container", say.Count(killed, "process"))
	}
	return driver.Clear(ctx, r.container)
}

// interrupted is what a run was doing when it was told to end, or its time was
// over. That its context ended is the library's way to say so.
type interrupted struct{ error }

func (i interrupted) Unwrap() error { return i.error }

func (i interrupted) Error() string {
	text := i.error.Error()
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if text == ended.Error() {
			return "interrupted"
		}
		text = strings.ReplaceAll(text, ": "+ended.Error(), "")
	}
	return "interrupted: " + text
}

// plainly says in plain words that an error comes of the end of ctx.
func plainly(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.As(err, new(interrupted)) || !errors.Is(err, ctx.Err()) {
		return err
	}
	return interrupted{err}
}

// explain says what an error of a step means when the container or the caller
// has gone away meanwhile.
func (w *work) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return hint.Wrap(interrupted{err}, fmt.Sprintf("the next start, or pve-nvidia-hook apply %d, does it again", w.trace.VMID))
	case !w.container.Alive():
		return hint.Wrap(fmt.Errorf("the container stopped meanwhile: %w", err), "the next start does it again")
	}
	return err
}

func (w *work) step(ctx context.Context, step Step) (note string, err error) {
	if w.trace.Phase == PhaseUninstall {
		return w.leaveStep(ctx, step)
	}
	switch step {
	case StepFetch:
		return w.fetch(ctx)
	case StepUninstall:
		return w.uninstall(ctx)
	case StepInstall:
		return w.install(ctx)
	case StepVerify:
		return w.verify(ctx)
	case StepToolkit:
		return w.toolkit(ctx)
	case StepRecord:
		return "", record.Write(w.container, w.next)
	}
	return "", fmt.Errorf("unknown step %q", step)
}

// mountWait is how long a cache folder on a storage that Proxmox VE mounts is
// waited for: after a boot that takes pvestatd some ten seconds.
const mountWait = time.Minute

func (w *work) fetch(ctx context.Context) (string, error) {
	s := w.settings
	if err := w.mounted(ctx, s.Cache.Dir); err != nil {
		return "", err
	}
	c := cache.Cache{
		Dir:         s.Cache.Dir,
		LockTimeout: s.Cache.LockTimeout,
		Proxy:       w.proxy(),
		Log:         w.Log,
		Holder:      fmt.Sprintf("container %d", w.trace.VMID),
	}
	if w.Terminal {
		c.Bar = os.Stderr
	}
	entry, err := c.Get(ctx, cache.Want{
		Version:         w.trace.Plan.Wanted,
		Arch:            w.trace.Facts.Host.Arch,
		URLs:            s.Driver.URLs,
		SHA256:          s.Driver.SHA256,
		RequireChecksum: s.Driver.RequireChecksum,
		Tree:            true,
	})
	if err != nil {
		return "", err
	}
	w.entry = entry
	return "", nil // the cache has said what it did
}

func (w *work) mounted(ctx context.Context, dir string) error {
	ends, said := time.Now().Add(mountWait), false
	for {
		err := pve.CheckMounted(w.Host.Root, dir)
		if err == nil || time.Now().After(ends) {
			return err
		}
		if !said {
			w.Log.Infof("waiting for the storage of the cache: %v", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (w *work) uninstall(ctx context.Context) (string, error) {
	// This is checked while the old driver still works: a container that cannot
	// take the new one keeps the old.
	if err := driver.Ready(w.container, w.job(), w.installed); err != nil {
		return "", err
	}
	w.next = record.Installed{Toolkit: w.next.Toolkit}
	if err := w.claimNothing(); err != nil {
		return "", err
	}
	keep := w.trace.Plan.Wanted
	err := driver.Uninstall(ctx, w.container, w.trace.Facts.Host.Arch, w.installed, keep, w.settings.Install.Timeout, w.Log)
	if err != nil {
		return "", err
	}
	if old := w.trace.Facts.Deep.Found.Version(); old != "" {
		return fmt.Sprintf("removed driver %s", old), nil
	}
	return "", nil
}

// claimNothing takes the driver out of the record; what is noted of a toolkit
// stays, since nothing else tells what an uninstallation has to remove.
func (w *work) claimNothing() error {
	if len(w.next.Toolkit) == 0 {
		return record.Remove(w.container)
	}
	return record.Write(w.container, w.next)
}

func (w *work) job() driver.Job {
	return driver.Job{
		Tree:         w.entry.Tree,
		Report:       w.entry.Report,
		Capabilities: driver.Capabilities(w.settings.Driver.Capabilities),
		Deliver:      w.settings.Install.Deliver,
		Flags:        w.settings.Driver.Flags,
		Timeout:      w.settings.Install.Timeout,
		Log:          w.Log,
	}
}

func (w *work) install(ctx context.Context) (string, error) {
	if err := driver.Ready(w.container, w.job(), w.installed); err != nil {
		return "", err
	}
	delivered, err := driver.Install(ctx, w.container, w.job())
	w.delivered = delivered
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("nvidia-installer %s ran in the container, delivered by %s", w.trace.Plan.Wanted, delivered), nil
}

// verify decides: what the installer said proves nothing.
func (w *work) verify(ctx context.Context) (string, error) {
	p := w.trace.Plan
	files, err := driver.Verify(ctx, w.container, w.job(), p.Verify)
	w.next.Version, w.next.Arch, w.next.Files = p.Wanted, w.trace.Facts.Host.Arch, files
	w.next.Capabilities = w.settings.Driver.Capabilities
	w.next.Verified, w.next.At, w.next.Program = p.Verify, time.Now(), version.Program
	if w.delivered != "" {
		w.next.Delivered = w.delivered
	}
	if err != nil {
		if files != nil && ctx.Err() == nil {
			// Only nvidia-smi has failed: the next run asks it again, and installs nothing.
			w.next.Verified = "files"
			err = errors.Join(err, record.Write(w.container, w.next))
		}
		if w.delivered != "" && files == nil {
			// Files are wrong. A failure of nvidia-smi is not the installer's.
			for _, line := range driver.LogTail(w.container, 6) {
				w.Log.Warnf("nvidia-installer.log: %s", line)
			}
		}
		return "", err
	}
	if p.Verify == "files" && w.trace.Facts.Host.Module != p.Wanted {
		return fmt.Sprintf("all %d files are in place; nvidia-smi is left out until the host's module is %s", len(files), p.Wanted), nil
	}
	if p.Verify == "files" {
		return fmt.Sprintf("all %d files are in place; nvidia-smi is not asked, as configured", len(files)), nil
	}
	return fmt.Sprintf("all %d files are in place and nvidia-smi says %s", len(files), p.Wanted), nil
}
