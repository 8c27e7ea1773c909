package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Shares tells whether a container is to have the shared driver: its configuration
// file mounts it, or its settings say so.
func Shares(h host.Host, s config.Settings) bool {
	return s.Install.Deliver == record.ByShare || pve.Shares(h.Root, s.VMID)
}

// PreStart makes the shared driver ready where the container is to have it. What
// fails is said, and the container starts without it.
func PreStart(ctx context.Context, vmid int, o Options) {
	s, err := o.Config.For(vmid)
	if err != nil || !s.Wanted || !Shares(o.Host, s) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, s.Share.Wait)
	defer cancel()
	err = PrepareShare(limited, s, o, false)
	if limited.Err() != nil && ctx.Err() == nil {
		err = hint.Errorf(fmt.Sprintf("pve-nvidia-hook apply %[1]d, then pct reboot %[1]d; [share] wait says how long a start waits", vmid), "not ready in %s: %w", s.Share.Wait, err)
	}
	if err != nil {
		o.Log.Fail(hint.Wrap(fmt.Errorf("the container starts without the shared driver: %w", err), hint.Of(err)))
	}
}

// PrepareShare makes the driver of the host's kernel module ready for containers that
// start from now on: fetched, laid out and mounted. What is ready already costs one
// read of a file. With cached nothing is downloaded: a run file that is not in the
// cache is left to the next call.
func PrepareShare(ctx context.Context, s config.Settings, o Options, cached bool) error {
	h, err := lookHost(o.Host)
	if err != nil {
		return err
	}
	v, refused := wantedVersion(s, h)
	if refused == nil && v != h.Module {
		refused = shareMismatch(v, h)
	}
	if refused != nil {
		return hint.Wrap(errors.New(refused.Why), refused.Hint)
	}
	run := s.Paths.Run
	if share.IsReady(run, v) {
		return nil
	}
	if cached {
		if _, err := os.Stat(filepath.Join(s.Cache.Dir, cache.FileName(v, h.Arch))); err != nil {
			return nil
		}
	}
	return prepare(ctx, s, o, h)
}

func prepare(ctx context.Context, s config.Settings, o Options, h HostFacts) error {
	held, err := share.Lock(ctx, s.Paths.Run, lock.Options{
		Timeout: s.Cache.LockTimeout, Holder: "the shared driver",
		OnWait: func(holder string, _ time.Duration) { o.Log.Infof("waiting for the shared driver, held by %s", holder) },
	})
	if err != nil {
		return err
	}
	defer held.Release()
	if share.IsReady(s.Paths.Run, h.Module) {
		return nil // by the one that was waited for
	}
	r := newRun(Event{s.VMID, PhasePreStart}, o)
	r.settings, r.trace.Facts.Host, r.trace.Plan.Wanted = s, h, h.Module
	entry, err := r.get(ctx)
	if err != nil {
		return err
	}
	defer entry.Release()
	if err := r.inWorker(ctx, order{Part: partShare, Tree: entry.Tree}); err != nil {
		return hint.Wrap(err, cmp.Or(hint.Of(err), fmt.Sprintf("install the driver in the container instead: pve-nvidia-hook enable %d --share=false", s.VMID)))
	}
	o.Log.Infof("driver %s is shared from now on", h.Module)
	return nil
}

// mountShare is the part of a worker: root of a privileged container can hold a file of
// the cache so that a link to it waits for ever.
func (w *work) mountShare(ctx context.Context) error {
	h, err := lookHost(w.host)
	if err != nil {
		return err
	}
	return share.Mount(ctx, w.Settings.Paths.Run, w.Tree, nodeName(), h.Arch)
}

// nodeName names this node's layouts in a cache that several share.
func nodeName() string {
	name, err := os.Hostname()
	if err != nil || name == "" || name != filepath.Base(name) {
		return "node"
	}
	return name
}

// PruneShare removes layouts of the shared driver that nobody on this node needs.
func PruneShare(s config.Settings) error {
	return share.Prune(s.Cache.Dir, s.Paths.Run, nodeName())
}

// shareMismatch refuses to share another version than that of the kernel module.
func shareMismatch(wanted version.Driver, h HostFacts) *Plan {
	return &Plan{Wanted: wanted, Refused: true,
		Why:  fmt.Sprintf("driver %s is wanted, but the shared driver is that of the host's kernel module, %s", wanted, cmp.Or(h.Module, "none")),
		Hint: `set version = "host", or install the driver in the container (pve-nvidia-hook enable VMID --share=false)`}
}

// lookShare completes the facts of a container that is to have the shared driver or
// that has its set-up.
func (w *work) lookShare(f *ContainerFacts, in *record.Installed) {
	f.Share = w.Settings.Install.Deliver == record.ByShare
	if conf := w.guestConf(); conf != nil && conf.Shared() {
		f.Share, f.Entry = true, true
	}
	f.SetUp = in != nil && in.Delivered == record.ByShare
	if f.Share || f.SetUp {
		f.Mounted = share.InContainer(w.container)
	}
	if !f.SetUp {
		return
	}
	shared, _ := share.Mounted(w.Settings.Paths.Run)
	f.Differs = say.Clean(share.Differs(w.container, in, shared, f.Mounted), maxClaim)
}

// notShared refuses for a container that is to have the shared driver and cannot have
// it before its restart; nil where nothing keeps it from that.
func notShared(vmid int, h HostFacts, c ContainerFacts, wanted version.Driver) *Plan {
	p := &Plan{Wanted: wanted, Refused: true, Hint: fmt.Sprintf("restart it: pct reboot %d", vmid)}
	switch {
	case !c.Share:
		return nil
	case h.Module != wanted:
		return shareMismatch(wanted, h)
	case c.Mounted == "" && c.Entry:
		p.Why = "the shared driver is not mounted in the container, its restart gets it"
	case c.Mounted == "":
		p.Why = "the shared driver is not mounted in the container"
		p.Hint = fmt.Sprintf("pve-nvidia-hook enable %d --share, then %s", vmid, p.Hint)
	case c.Mounted != wanted:
		p.Why = fmt.Sprintf("the container was started with the shared driver %s, its restart gets %s of the host's kernel module", c.Mounted, wanted)
	default:
		return nil
	}
	return p
}

// setUpShare is StepShare.
func (w *work) setUpShare(ctx context.Context) (string, error) {
	var had []record.File
	if w.next.Delivered == record.ByShare {
		had = w.next.Files
	}
	l, files, taken, err := w.leadToShare(ctx, had)
	if err != nil {
		return "", err
	}
	w.pin()
	for _, name := range taken {
		w.log.Warnf("%s is there already and stays, so the shared driver has no link at that place", name)
	}
	w.forgetDriver()
	w.lacks(driver.LacksOthers(w.container, l.Arch, l.Needs).Packages, w.trace.Facts.Container.Recorded == "")
	w.next.Delivered, w.next.Files, w.next.Layout = record.ByShare, files, l.Digest()
	w.next.Arch, w.next.At, w.next.Program = w.trace.Facts.Host.Arch, time.Now(), version.Program
	return fmt.Sprintf("%d links lead to the shared driver %s", len(files)-1, l.Version), record.Write(w.container, w.next)
}

func (w *work) leadToShare(ctx context.Context, had []record.File) (l share.Layout, files []record.File, taken []string, err error) {
	l, ok := share.Mounted(w.Settings.Paths.Run)
	if !ok || l.Version != w.trace.Plan.Wanted {
		err = hint.Errorf(fmt.Sprintf("pve-nvidia-hook apply %d makes it", w.Settings.VMID), "driver %s is not mounted on this node for sharing", w.trace.Plan.Wanted)
		return l, nil, nil, err
	}
	files, taken, err = share.SetUp(ctx, w.container, l, had)
	return l, files, taken, err
}

// askShared asks nvidia-smi of the shared driver, where it is to be asked.
func (w *work) askShared(ctx context.Context) error {
	switch {
	case w.trace.Plan.Verify != "nvidia-smi":
		return nil
	case w.blind():
		return driver.NoNode(false)
	}
	return driver.SMIOf(ctx, w.container, share.SMI, w.trace.Plan.Wanted)
}

// verifyShare is StepVerify for the shared driver.
func (w *work) verifyShare(ctx context.Context) (string, error) {
	p := w.trace.Plan
	err := w.askShared(ctx)
	w.next.Version, w.next.Verified, w.next.At, w.next.Program = p.Wanted, p.Verify, time.Now(), version.Program
	if err != nil {
		if ctx.Err() == nil {
			w.next.Verified = "files" // the next run asks nvidia-smi again, and sets nothing up
			err = errors.Join(err, record.Write(w.container, w.next))
		}
		return "", err
	}
	if p.Verify == "files" {
		return "the shared driver is in place; nvidia-smi is not asked, as configured", nil
	}
	return fmt.Sprintf("nvidia-smi of the shared driver says %s", p.Wanted), nil
}

// replaceByShare is StepUninstall where the shared driver takes the place of an
// installed one, which goes when the shared one is seen to work. It may hold places
// that the set-up needs, so StepShare follows.
func (w *work) replaceByShare(ctx context.Context) (string, error) {
	_, files, _, err := w.leadToShare(ctx, nil)
	if err == nil {
		err = w.askShared(ctx)
	}
	if err != nil {
		// Nothing of it may lead programs away from what is there.
		return "", errors.Join(err, share.TakeAway(context.WithoutCancel(ctx), w.container, files))
	}
	w.forgetDriver()
	if err := w.recordNoDriver(); err != nil {
		return "", err
	}
	if err := driver.Uninstall(ctx, w.container, w.trace.Facts.Host.Arch, w.installed, "", w.Settings.Install.Timeout, w.log); err != nil {
		return "", err
	}
	return fmt.Sprintf("removed the installed driver %s", w.trace.Facts.driver()), nil
}

// takeShareAway takes the set-up of the shared driver out of the container, if its
// record tells of one.
func (w *work) takeShareAway(ctx context.Context) error {
	if w.installed == nil || w.installed.Delivered != record.ByShare {
		return nil
	}
	return share.TakeAway(ctx, w.container, w.installed.Files)
}
