package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// statusRow is one container in the output of status.
type statusRow struct {
	VMID      int            `json:"vmid"`
	Name      string         `json:"name"`
	Running   bool           `json:"running"`
	Wanted    version.Driver `json:"wanted"`
	Installed version.Driver `json:"installed"`
	Shared    bool           `json:"shared"` // Installed is the node's driver, mounted in it
	Toolkit   string         `json:"toolkit"`
	OK        bool           `json:"ok"`
	Reason    string         `json:"reason"`
	LastRun   *lastRun       `json:"last_run"` // null: none is kept
}

type lastRun struct {
	At      time.Time   `json:"at"`
	Phase   hook.Phase  `json:"phase"`
	Result  hook.Result `json:"result"`
	Seconds float64     `json:"seconds"`

	unwanted bool // it was skipped because no driver was wanted then
}

func (a *app) status() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [VMID...]",
		Short: "print wanted and installed version of every container",
		Long: `Print a line for each container of this node that uses this program: those with
its hookscript, those that the configuration wants the driver in, and those that
it worked on before; or for the containers named. One that it only worked on
before is not followed any more: the driver in it is not updated.

What a running container has is read from its record and compared with its
files. "shared" stands before the version of a driver that is not installed but
mounted from the node; a container that runs keeps it until its next start.
Versions in parentheses are those that the last run left in a container that is
stopped now. A line that begins with "!" is a problem, with its reason
at the end. The exit status is 0 even then (doctor is the command for checks);
it is 1 if a container that was named does not exist.

In the JSON, last_run is null when no run is kept. Its result is one of skipped
("in place" or "not wanted" in the table), installed, refused, failed,
background (a systemd unit goes on with the work) and removed (the driver was
taken out by uninstall); its phase is post-start, or uninstall, which Proxmox
does not have. A version is "" if there is none.

Nothing is changed, and no process is started in a container.`,
		Example: `  pve-nvidia-hook status
  pve-nvidia-hook status --json | jq '.[] | select(.ok | not) | .vmid'`,
		Args: args(0, -1, "VMIDs"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			conf, err := a.load()
			if err != nil {
				return err
			}
			rows, missing := a.statusRows(c.Context(), conf, ids)
			if err := c.Context().Err(); err != nil { // what was broken off is not the container's fault
				return stopped(c.Context(), err, "status", "nothing was changed; run it again")
			}
			if asJSON {
				return errors.Join(say.JSON(c.OutOrStdout(), rows), missing)
			}
			if len(rows) == 0 {
				a.log.Info("no container of this node is enabled; to begin: pve-nvidia-hook setup")
				return nil
			}
			width, colour := screen(os.Stdout)
			return errors.Join(printStatus(c.OutOrStdout(), rows, time.Now(), width, colour), missing)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of objects, one for each container")
	return c
}

// statusRows looks at the containers named, or at all that are ours. missing is
// about those named that this node does not have.
func (a *app) statusRows(ctx context.Context, conf *config.Config, ids []int) (rows []statusRow, missing error) {
	known := a.containers(conf)
	named := len(ids) > 0
	if !named {
		ids = known.known()
	}
	rows = make([]statusRow, 0, len(ids))
	for _, s := range a.glance(ctx, conf, ids) {
		rows = append(rows, row(s, known))
		if last := rows[len(rows)-1]; named && !last.OK && !last.Running {
			missing = errors.Join(missing, known.missing(s.vmid))
		}
	}
	return rows, missing
}

// row says how a container stands.
func row(s state, known *containers) statusRow {
	r := statusRow{
		VMID: s.vmid, Name: say.Clean(known.name(s.vmid, s.Settings), 64), Running: s.Running,
		Wanted: s.Wanted, Installed: s.Has.Driver, Shared: s.Has.Shared, Toolkit: say.Clean(s.Has.Toolkit, 20),
	}
	if s.Last != nil {
		was := s.Last.Settings
		r.LastRun = &lastRun{s.Last.At.Truncate(time.Second), s.Last.Phase, s.Last.Result, s.Last.Seconds, was.VMID != 0 && !was.Wanted}
	}
	if known.standing[s.vmid] != pve.Follows {
		r.Wanted = ""
	}
	r.OK, r.Reason = judge(s, known)
	r.Reason = say.Clean(r.Reason, 1000)
	return r
}

// judge says whether all is as wanted, and if not, or if something has to be
// known, why.
func judge(s state, known *containers) (ok bool, reason string) {
	last := hook.Trace{}
	if s.Last != nil {
		last = *s.Last
	}
	standing, left := known.standing[s.vmid], ""
	if s.Has.Driver != "" {
		left = "; the driver in it is not updated"
	}
	ended := last.Bad() && !last.Outdated(s.Wanted)
	switch {
	case s.err != nil && standing == pve.Follows && known.there(s.vmid):
		return false, s.err.Error()
	case known.others[s.vmid] != nil && !s.Running:
		return false, known.others[s.vmid].Error()
	case !known.there(s.vmid) && !s.Running:
		// A configuration may name a container before it is made.
		return s.Last == nil && standing != 0, "there is no such container on this node"
	case !s.Settings.Wanted:
		return true, s.Plan.Why + left
	case s.Busy != "":
		return true, "a run is active: " + s.Busy
	case standing == pve.Lost:
		return false, fmt.Sprintf("not followed: the hookscript that enable has set is gone; see pve-nvidia-hook doctor %d", s.vmid)
	case standing != pve.Follows:
		return true, notFollowed + left
	case s.Plan.Refused:
		return false, s.Plan.Why
	case s.Running && s.Plan.Needed() && ended:
		return false, fmt.Sprintf("%s; the last run %s: %s", s.Plan.Why, was(last.Result), last.Reason)
	case s.Running && s.Plan.Needed():
		return false, s.Plan.Why
	case s.Running && len(s.Devices) > 0:
		return false, strings.Join(s.Devices, "; ")
	case s.Running && len(s.Use.Old()) > 0:
		return false, hook.StillUse(s.Use.Old())
	case s.Running && ended:
		// Put right by a run that is not kept, or by hand: the line says both.
		return true, fmt.Sprintf("all is in place now; the last run that is kept %s: %s", was(last.Result), last.Reason)
	case s.Running:
		return true, ""
	case ended:
		return false, fmt.Sprintf("the last run %s: %s", was(last.Result), last.Reason)
	case s.Shares && (s.Has.Driver != s.Wanted || !s.Has.Shared):
		return true, "the next start has the shared driver " + string(s.Wanted)
	case s.Has.Driver == "" || s.Has.Shared && !s.Shares:
		return true, "the next start installs " + string(s.Wanted)
	case s.Has.Driver != s.Wanted:
		return true, fmt.Sprintf("the next start replaces %s by %s", s.Has.Driver, s.Wanted)
	}
	return true, ""
}

const notFollowed = "not followed: its hookscript is not pve-nvidia-hook, and no configuration names it"

func was(r hook.Result) string {
	if r == hook.Refused {
		return "was refused"
	}
	return string(r)
}
