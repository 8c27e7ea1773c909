package hook

import (
	"context"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// Environment variables of the hook and of the command line.
const (
	EnvConfig   = "PVE_NVIDIA_HOOK_CONFIG"    // the configuration file
	EnvHostRoot = "PVE_NVIDIA_HOOK_HOST_ROOT" // the host's facts are read below it
)

// Call is Proxmox's door: a VMID and a phase. It returns the exit status: 0 done
// or nothing to do, 1 failed or refused, 2 wrong arguments. What may hang in a
// container is left to work, which makes the same call in a worker. That one has
// no other to leave it to: nil.
func Call(ctx context.Context, args []string, work worker.Work) int {
	log, err := say.New(os.Stderr, "text", "info")
	if err != nil {
		return 1 // cannot be: these names are right
	}
	e, err := ParseEvent(args)
	if err != nil {
		log.Error(err)
		return 2
	}
	began := time.Now()
	log.ToJournal()
	log = log.For(e.VMID)
	h := host.Host{Root: os.Getenv(EnvHostRoot)}
	if e.Phase == PhasePostStart { // the other phases keep no guest from starting or stopping
		if err := NeedsRoot(string(e.Phase), h.Root, os.Geteuid()); err != nil {
			log.Fail(err)
			return 1
		}
	}
	c, err := LoadConfig(os.Getenv(EnvConfig))
	status := 0
	inUnit := os.Getenv(EnvBackground) != ""
	if inUnit {
		// The journal asks the kernel whose unit a process is in when it reads its
		// line, and may come too late for the last ones. journalctl -u takes the word
		// of root for it (add_matches_for_unit of systemd's logs-show).
		log = log.With("object_systemd_unit", unit{e.VMID}.service())
	}
	switch {
	case e.Phase == PhasePreStop || e.Phase == PhasePostStop:
		if (unit{e.VMID}).stop(ctx) {
			log.Info("the work in the background was ended, the next start does it again")
		}
	case e.Phase != PhasePostStart:
		// Nothing to do, and nothing may ever keep a guest from starting or
		// stopping: not even a configuration with mistakes.
	case err != nil:
		log.Fail(err)
		log.Info(Trace{Seconds: time.Since(began).Seconds()}.Truth())
		status = 1
	default:
		o := Options{Config: c, Host: h, Log: log, Detach: !inUnit, Unit: inUnit}
		if work != nil {
			o.Aside = Aside(work, worker.Job{})
		}
		t, err := postStart(ctx, e, o)
		t.Say(log, err)
		if t.Bad() {
			status = 1
		}
		if worker.Is() {
			if err := worker.Tell(t); err != nil {
				log.Fail(err)
				status = 1
			}
		}
	}
	if inUnit || worker.Is() {
		return status // who called this one runs the other one
	}
	if other := chained(c, e.VMID); other != "" {
		if s := runChained(ctx, h, other, e, log); s != 0 {
			return s
		}
	}
	return status
}

// LoadConfig reads the configuration; file "" is the default one, which may be
// missing.
func LoadConfig(file string) (*config.Config, error) {
	return config.Load(file, config.Options{HostRoot: os.Getenv(EnvHostRoot), Named: file != ""})
}
