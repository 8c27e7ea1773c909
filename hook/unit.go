package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/replace"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// unit is the transient systemd service that goes on with the work for a
// container after its hook has returned.
type unit struct{ vmid int }

func (u unit) name() string { return fmt.Sprintf("pve-nvidia-hook-%d", u.vmid) }

func (u unit) service() string { return u.name() + ".service" }

// Deadlines for talking with systemd.
const (
	unitStart = 10 * time.Second        // longer than an ending unit takes, which is waited for
	unitStop  = 3500 * time.Millisecond // the program undoes its work within two seconds, or ends after three
	unitKill  = 5 * time.Second         // then systemd kills what is left
)

// haveSystemd is what sd_booted(3) asks.
func haveSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// talk connects with systemd: directly, which needs no message bus, or by the bus, in
// case a future systemd has no private socket.
func talk(ctx context.Context) (*systemd.Conn, error) {
	conn, err := systemd.NewSystemdConnectionContext(ctx)
	if err != nil {
		conn, err = systemd.NewSystemConnectionContext(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("talk to systemd: %w", err)
	}
	return conn, nil
}

// known reports whether systemd has such a unit. A transient unit has a file there
// from its start to its end, and looking for it is quick.
func (u unit) known() bool {
	_, err := os.Stat("/run/systemd/transient/" + u.service())
	return err == nil
}

// start starts the unit, which runs the command with the variables of envFile.
// It reports false when one is at work already.
func (u unit) start(ctx context.Context, envFile string, command ...string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, unitStart)
	defer cancel()
	conn, err := talk(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	set := func(name string, value any) systemd.Property {
		return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	properties := []systemd.Property{
		systemd.PropDescription(fmt.Sprintf("NVIDIA driver of container %d", u.vmid)),
		systemd.PropExecStart(command, false),
		set("Type", "exec"), // the start has failed when the program cannot be executed
		set("EnvironmentFiles", []struct {
			Path     string
			Optional bool
		}{{envFile, false}}),
		set("KillMode", "mixed"), // the program itself ends what it has started
		set("TimeoutStopUSec", uint64(unitKill.Microseconds())),
	}
	for {
		result := make(chan string, 1)
		_, err := conn.StartTransientUnitContext(ctx, u.service(), "fail", properties, result)
		if err == nil {
			select {
			case said := <-result:
				if said != "done" {
					return false, fmt.Errorf("start unit %s: %s", u.name(), said)
				}
				return true, nil
			case <-ctx.Done():
				return false, fmt.Errorf("start unit %s: %w", u.name(), ctx.Err())
			}
		}
		var refused dbus.Error
		if !errors.As(err, &refused) || refused.Name != "org.freedesktop.systemd1.UnitExists" {
			return false, fmt.Errorf("start unit %s: %w", u.name(), err)
		}
		switch state := stateOf(ctx, conn, u.service()); {
		case atWork(state):
			return false, nil
		case state == "failed": // it stays for systemctl --failed until somebody looks, or this
			_ = conn.ResetFailedUnitContext(ctx, u.service())
		}
		select { // it ends just now
		case <-ctx.Done():
			return false, fmt.Errorf("start unit %s: the one before does not end: %w", u.name(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func atWork(state string) bool { return state == "active" || state == "activating" }

// stateOf returns the ActiveState of a unit, "" when it cannot be told.
func stateOf(ctx context.Context, conn *systemd.Conn, service string) string {
	state, err := conn.GetUnitPropertyContext(ctx, service, "ActiveState")
	if err != nil {
		return ""
	}
	word, _ := state.Value.Value().(string)
	return word
}

// stateNow is stateOf over a connection of its own.
func stateNow(ctx context.Context, service string) (state string) {
	withSystemd(ctx, func(ctx context.Context, conn *systemd.Conn) { state = stateOf(ctx, conn, service) })
	return state
}

// withSystemd calls f with a connection, for a few seconds at most. Without systemd it
// does nothing: neither a start nor a stop of a container may fail for that.
func withSystemd(ctx context.Context, f func(context.Context, *systemd.Conn)) {
	ctx, cancel := context.WithTimeout(ctx, unitStop)
	defer cancel()
	conn, err := talk(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	f(ctx, conn)
}

// fail leaves a failed unit behind, so that a start which failed is seen by
// systemctl --failed as work in the background is. It waits until it is there: a stop
// right after it would take a unit that is just starting for work to be ended.
func (u unit) fail(ctx context.Context, reason string) {
	if !haveSystemd() {
		return
	}
	withSystemd(ctx, func(ctx context.Context, conn *systemd.Conn) {
		_ = conn.ResetFailedUnitContext(ctx, u.service())
		ended := make(chan string, 1)
		if _, err := conn.StartTransientUnitContext(ctx, u.service(), "fail", []systemd.Property{
			systemd.PropDescription(fmt.Sprintf("NVIDIA driver of container %d: %s", u.vmid, say.Clean(reason, 200))),
			systemd.PropType("oneshot"),
			systemd.PropExecStart([]string{"/bin/false"}, false),
		}, ended); err != nil {
			return
		}
		select {
		case <-ended:
		case <-ctx.Done():
		}
	})
}

// forget has systemd forget that the unit has failed, after a run that went well.
func (u unit) forget(ctx context.Context) {
	if u.known() {
		withSystemd(ctx, func(ctx context.Context, conn *systemd.Conn) { _ = conn.ResetFailedUnitContext(ctx, u.service()) })
	}
}

// works reports whether the unit is at work.
func (u unit) works(ctx context.Context) bool {
	return u.known() && atWork(stateNow(ctx, u.service()))
}

// stop ends the unit and waits a little for it to undo what it has half done.
// It reports whether there was one. It never fails: a guest that stops must not
// be held up.
func (u unit) stop(ctx context.Context) (stopped bool) {
	if !u.known() {
		return false
	}
	withSystemd(ctx, func(ctx context.Context, conn *systemd.Conn) {
		if state := stateOf(ctx, conn, u.service()); state == "failed" || state == "inactive" {
			return
		}
		ended := make(chan string, 1)
		if _, err := conn.StopUnitContext(ctx, u.service(), "replace", ended); err != nil {
			return
		}
		stopped = true
		select {
		case <-ended:
		case <-ctx.Done():
		}
		_ = conn.ResetFailedUnitContext(ctx, u.service()) // it was ended on purpose, which is no failure
	})
	return stopped
}

// writeEnv writes the variables that the unit needs of this process. They go by
// a file for root's eyes, because everyone may read a unit's properties and a
// proxy's URL can hold a password.
func writeEnv(file string, environ []string) error {
	var b strings.Builder
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if passedOn(name) && !strings.ContainsAny(value, "\n\r\x00") {
			fmt.Fprintf(&b, "%s=\"%s\"\n", name, quoteEnv.Replace(value))
		}
	}
	fmt.Fprintf(&b, "%s=1\n", EnvBackground)
	if err := trust.MakeDir(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	// The container's lock is held: nobody else writes it.
	if err := replace.File(file, file+".new", []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the environment of the background work: %w", err)
	}
	return nil
}

// quoteEnv escapes what systemd unescapes between double quotes in such a file
// (systemd.exec(5), EnvironmentFile).
var quoteEnv = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)

func passedOn(name string) bool {
	switch upper := strings.ToUpper(name); upper {
	case "PATH", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY":
		return true
	default:
		return strings.HasPrefix(name, "PVE_NVIDIA_HOOK_") && name != EnvBackground
	}
}

// envFile is where the unit of a container finds its variables.
func envFile(run string, vmid int) string { return filepath.Join(run, strconv.Itoa(vmid)+".env") }
