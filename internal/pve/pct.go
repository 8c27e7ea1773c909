package pve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// pctTimeout ends a pct that hangs. It waits 10 s for a container's lock itself.
const pctTimeout = 60 * time.Second

var errNoPct = hint.Errorf("run it on a node of Proxmox VE, as root", "there is no pct on this machine")

func (o Options) pct() string {
	if o.Pct == "" {
		return "pct"
	}
	return o.Pct
}

// runPct runs pct and explains its refusals.
func runPct(ctx context.Context, pct string, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, pctTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, pct, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// What pct says is recognised in English. By ssh comes the other machine's locale
	// besides, which the node may not have, and perl would say so at length.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return errNoPct
	case ctx.Err() != nil:
		return fmt.Errorf("pct %s: %w", strings.Join(args, " "), ctx.Err())
	}
	text := out.String()
	why := reason(text)
	if why == "" {
		why = err.Error()
	}
	err = fmt.Errorf("pct %s %s: %s", args[0], args[1], why)
	if next := explain(text); next != "" {
		return hint.Wrap(err, next)
	}
	return err
}

// reason is what pct said, without its waiting, heading and usage lines, in one line.
func reason(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", line == "OK", strings.HasPrefix(line, "trying to acquire lock"),
			strings.HasPrefix(line, "400 "), strings.HasPrefix(line, "pct set "), strings.HasPrefix(line, "cannot delete "):
			continue
		}
		line = strings.ToValidUTF8(line[:min(len(line), 500)], "") // not half a character
		if lines = append(lines, line); len(lines) == 5 {
			break
		}
	}
	return strings.Join(lines, "; ")
}

// explain returns what to do about a refusal of pct.
func explain(text string) string {
	for _, known := range []struct{ said, hint string }{
		{"got timeout", "another task holds the container's lock (a start, a backup or a running hook): try again when it has ended"},
		{"please run as root", "run it as root on the node"},
		{"only allowed for root@pam", "only root@pam may set hookscripts and devices: run it as root on the node"},
		{"is locked (", "wait for the backup, snapshot or migration to end; remove a stale lock with pct unlock"},
		{"Configuration file", "the container was removed or migrated meanwhile"},
		{"is not a device", devicesHint},
		{"Device /dev/", devicesHint},
		{"Unknown option: dev", "devN entries need Proxmox VE 8.1 or later; with --gpus none the hookscript alone is set"},
		{"unable to hotplug", "stop the container first, then try again"},
		{"no quorum", "the cluster has no quorum, so its configuration cannot be changed now: pvecm status"},
		{"Permission denied", "is the cluster without quorum? see pvecm status"},
		{"is not executable", "chmod 755 the file"},
		{"is not in the snippets directory", "a hookscript is named STORAGE:snippets/FILE"},
		{"script '", "put the file back, or take the line out by pct set VMID --delete hookscript"},
		{"storage '", "see pvesm status"},
	} {
		if strings.Contains(text, known.said) {
			return known.hint
		}
	}
	return ""
}
