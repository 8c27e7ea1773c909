// Package after makes the programs in a container use the driver that was just
// installed there: a program keeps the libraries with which it was started. The
// container's own systemd restarts services, commands of the user are run, or the
// container is rebooted. Nothing here undoes or fails an installation.
package after

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Container is what this package needs of a running container; *lxc.Container has it.
type Container interface {
	Stat(name string) (lxc.Info, error)
	Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error)
	Pid() int
}

// Log takes the messages.
type Log interface {
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
}

// restartLimit is for the restart of all services together. systemd gives each one
// 90 s to end, and the start of a container must not wait for more than one of them.
var restartLimit = 100 * time.Second

// settle is how long after a restart a service must still be there. One of type
// simple counts as started as soon as its program was executed.
var settle = time.Second

// Job says what is to be done in a container.
type Job struct {
	VMID      int
	Cgroup    string         // of the container, absolute; see inuse.Look
	Installed version.Driver // in the container by now
	// Restart is whether anything may be restarted now: at a start of the
	// container, or when a person asks for it. If not, it is only named.
	Restart bool
	Units   []string // services to restart in any case
	Log     Log
}

// Done is what came of it.
type Done struct {
	Restarted []string       `json:"restarted,omitempty"` // units and nested containers
	Failed    []string       `json:"failed,omitempty"`    // those that did not come up again, in words
	Waiting   []string       `json:"waiting,omitempty"`   // those that need a restart, which was not allowed
	Old       []inuse.Holder `json:"old,omitempty"`       // what uses another driver in the end
	Unseen    string         `json:"unseen,omitempty"`    // why it is not known what uses one
}

// Restart restarts what needs the driver that was just installed, says so, and says
// what still uses another one. Except for j.Units, only what needs a GPU is restarted.
func Restart(ctx context.Context, c Container, j Job) Done {
	var d Done
	use := d.look(ctx, j)
	if !Systemd(c) {
		d.withoutSystemd(c, j, use)
		return d
	}
	units := slices.Clone(j.Units)
	known, err := known(ctx, c)
	if err != nil {
		j.Log.Warnf("%v", err)
	}
	units = append(units, known...)
	for _, h := range use.Holders {
		if u := h.Restartable(); u != "" {
			units = append(units, u)
		}
	}
	slices.Sort(units)
	units = slices.Compact(units)
	if !j.Restart {
		d.Waiting, d.Old = units, use.Old()
		j.waiting(d)
		return d
	}
	if len(units) > 0 {
		d.restart(ctx, c, units)
		use = d.look(ctx, j)
	}
	d.nested(ctx, c, use)
	if len(d.Restarted) > 0 {
		use = d.look(ctx, j)
	}
	for _, f := range d.Failed {
		j.Log.Warnf("%s; see journalctl in the container", f)
	}
	d.Old = use.Old()
	d.still(j)
	return d
}

func (d *Done) look(ctx context.Context, j Job) inuse.Use {
	use, err := inuse.Look(ctx, j.Cgroup, j.Installed)
	d.Unseen = use.Partial
	if err != nil {
		d.Unseen = err.Error()
	}
	return use
}

// still says what uses another driver in the end.
func (d *Done) still(j Job) {
	for _, h := range d.Old {
		j.Log.Warnf("%s; restart it, or the container: pct reboot %d", h, j.VMID)
	}
	if d.Unseen != "" {
		j.Log.Warnf("whether all programs use driver %s is not known: %s", j.Installed, d.Unseen)
	}
}

// waiting names what was not restarted.
func (j Job) waiting(d Done) {
	d.still(j)
	rest := slices.DeleteFunc(slices.Clone(d.Waiting), func(u string) bool {
		return slices.ContainsFunc(d.Old, func(h inuse.Holder) bool { return h.Restartable() == u })
	})
	if len(rest) > 0 {
		j.Log.Infof("started before driver %s was there: %s; pve-nvidia-hook apply --restart %d restarts them", j.Installed, strings.Join(rest, ", "), j.VMID)
	}
}

// withoutSystemd is for a container in which nothing can be restarted. In one made from
// an OCI image the application is init, and was started before the driver was there.
func (d *Done) withoutSystemd(c Container, j Job, use inuse.Use) {
	d.Old = use.Old()
	d.still(j)
	if len(d.Old) == 0 && j.Restart {
		j.Log.Infof("%s", Advice(j.VMID, j.Installed))
	}
}

// Advice is for a container without systemd, whose programs were started before the driver was there.
func Advice(vmid int, v version.Driver) string {
	return fmt.Sprintf("the container has no systemd: its programs use driver %s only after its reboot (pct reboot %d, or reboot = true below [after])", v, vmid)
}

// Systemd reports whether systemd is the container's init, as sd_booted(3) does.
func Systemd(c Container) bool {
	info, err := c.Stat("/run/systemd/system")
	return err == nil && info.Mode.IsDir()
}

// Commands runs the user's commands, each a program and its arguments, one after
// the other, and each for at most limit. One that fails does not keep the next from
// being run; the error names all that failed.
func Commands(ctx context.Context, c Container, run [][]string, limit time.Duration) error {
	var failed []error
	for _, argv := range run {
		res, err := c.Run(ctx, lxc.Cmd{Args: argv, Env: []string{"HOME=/root", "LC_ALL=C.UTF-8"}, Timeout: limit, Reap: true})
		name := say.Clean(strings.Join(argv, " "), 200)
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("after.run: %w", err))
		case res.Code == 127:
			failed = append(failed, hint.Errorf("see run below [after]", "after.run: there is no %s in the container", name))
		case res.Code != 0:
			failed = append(failed, fmt.Errorf("after.run: %s: %w", name, res.Err()))
		}
		if ctx.Err() != nil || errors.Is(err, lxc.ErrNotRunning) {
			break
		}
	}
	return errors.Join(failed...)
}

// rebootLimit is for a command that only asks for a reboot.
const rebootLimit = 30 * time.Second

// Reboot reboots the container from inside: no hook runs then. It returns when the
// reboot was asked for; who calls it notes before that it did, so that a driver that
// has to be installed at each start does not reboot the container each time.
func Reboot(ctx context.Context, c Container) error {
	argv := []string{"systemctl", "reboot"}
	if !Systemd(c) {
		// -f: without asking init, which is the application itself.
		argv = []string{"reboot", "-f"}
	}
	res, err := c.Run(ctx, lxc.Cmd{Args: argv, Timeout: rebootLimit})
	switch {
	case errors.Is(err, lxc.ErrNotRunning):
		return nil
	case err == nil && res.Code == 127:
		err = errors.New("it has no reboot program")
	case err == nil && res.Code != 0:
		err = fmt.Errorf("%s: %w", strings.Join(argv, " "), res.Err())
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("reboot the container from inside: %w", err), "pct reboot VMID on the host")
	}
	return nil
}
