package hook

import (
	"context"
	"os"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Environment variables of the hook and of the command line.
const (
	EnvConfig   = "PVE_NVIDIA_HOOK_CONFIG"    // the configuration file
	EnvHostRoot = "PVE_NVIDIA_HOOK_HOST_ROOT" // the host's facts are read below it
)

// Call does what a call by Proxmox VE asks: args are a VMID and a phase. It returns the
// exit status: 0 done or nothing to do, 1 failed or refused, 2 wrong arguments.
func Call(ctx context.Context, args []string) int {
	log, err := say.New(os.Stderr, "text", "info")
	if err != nil {
		return 1 // cannot happen: these words are valid
	}
	e, err := ParseEvent(args)
	if err != nil {
		log.Error(err)
		return 2
	}
	log.ToJournal()
	c := call{Event: e, log: log.For(e.VMID), host: host.Host{Root: os.Getenv(EnvHostRoot)}, unit: os.Getenv(EnvBackground) != ""}
	if c.unit {
		c.log = namingUnit(c.log, e.VMID)
	}
	c.config, c.mistake = LoadConfig(os.Getenv(EnvConfig))
	status := 0
	switch e.Phase {
	case PhasePreStart:
		status = c.preStart(ctx)
	case PhasePostStart:
		status = c.postStart(ctx)
	case PhasePreStop, PhasePostStop:
		status = c.stop(ctx)
	}
	if c.unit || c.denied || inChain(e) {
		return status // the hook that started the unit runs the chained hookscript
	}
	if other := Chained(c.config, e.VMID); other != "" {
		if s := RunChained(ctx, other, e, Options{Host: c.host, Log: c.log}); s != 0 {
			return s
		}
	}
	return status
}

// call is one call by Proxmox.
type call struct {
	Event
	log     say.Log
	host    host.Host
	config  *config.Config // nil when it has mistakes
	mistake error
	unit    bool // this is the unit in which the work of an earlier call goes on
	denied  bool // the caller is not root
}

// preStart never keeps a container from starting, not even by a configuration with
// mistakes.
func (c *call) preStart(ctx context.Context) int {
	if c.mistake == nil && NeedsRoot(string(c.Phase), c.host.Root, os.Geteuid()) == nil { // else post-start says so
		PreStart(ctx, c.VMID, Options{Config: c.config, Host: c.host, Log: c.log})
	}
	return 0
}

// postStart brings the container into line.
func (c *call) postStart(ctx context.Context) int {
	began := time.Now()
	if err := NeedsRoot(string(c.Phase), c.host.Root, os.Geteuid()); err != nil {
		c.log.Fail(err)
		c.denied = true
		return 1
	}
	if c.mistake != nil {
		c.log.Fail(c.mistake)
		c.log.Info(Trace{Seconds: time.Since(began).Seconds()}.Truth())
		if !c.unit {
			unit{c.VMID}.fail(context.WithoutCancel(ctx), c.mistake.Error())
		}
		return 1
	}
	t, err := PostStart(ctx, c.Event, Options{Config: c.config, Host: c.host, Log: c.log, InUnit: c.unit, Request: Request{AtStart: true}})
	t.Say(namingUnit(c.log, c.VMID), err)
	if t.Bad() {
		if c.unit && t.Ended != "" {
			return 0 // the container stopped, or somebody ended it: no failure to look at
		}
		if !c.unit && t.Ended == "" {
			unit{c.VMID}.fail(context.WithoutCancel(ctx), t.Reason)
		}
		return 1
	}
	return 0
}

// stop ends the work in the background. It never keeps a container from stopping.
func (c *call) stop(ctx context.Context) int {
	if (unit{c.VMID}).stop(ctx) {
		c.log.Info("the work in the background was ended, the next start does it again")
	}
	return 0
}

// NeedsRoot refuses to others what only root can do on a node. Below a folder
// that stands for the host nothing is root's alone.
func NeedsRoot(what, hostRoot string, uid int) error {
	if uid == 0 || hostRoot != "" {
		return nil
	}
	return hint.Errorf("run it as root on the node", "%s needs root: its files and containers belong to root", what)
}

// LoadConfig reads the configuration; file "" is the default one, which may be
// missing.
func LoadConfig(file string) (*config.Config, error) {
	root := os.Getenv(EnvHostRoot)
	return config.Load(file, config.Options{HostRoot: root, Named: file != "", Docker: func(state string, vmid int) bool {
		return pve.Docker(root, state, vmid)
	}})
}
