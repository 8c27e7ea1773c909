package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// chainLimit ends another hookscript that hangs. Proxmox itself would wait for
// ever; this is far more than a hook may take without failing a migration.
const chainLimit = time.Hour

// envChained names the call from which a chained hookscript is run. When that script
// calls this program for the same guest and phase, it is not run a second time.
const envChained = "PVE_NVIDIA_HOOK_CHAINED"

// inChain reports whether this very call comes from its chained hookscript.
func inChain(e Event) bool { return os.Getenv(envChained) == chainedCall(e) }

func chainedCall(e Event) string { return fmt.Sprintf("%d %s", e.VMID, e.Phase) }

// Chained returns the hookscript that runs after this program's work, "" when there is
// none: the volume that the configuration names, else the file that stands in the name
// of the snippet which called this program. A configuration with mistakes (c is nil)
// does not keep the second from running.
func Chained(c *config.Config, vmid int) string {
	if c != nil {
		if s, err := c.For(vmid); err == nil && s.Chain != "" {
			return s.Chain
		}
	}
	return snippet.Chained(os.Getenv(snippet.Env))
}

// RunChained calls another hookscript as Proxmox VE would, and returns its exit
// status: it may be meant to keep a guest from starting. It needs of o Host and Log.
func RunChained(ctx context.Context, volume string, e Event, o Options) int {
	if ctx.Err() != nil {
		o.Log.Warnf("interrupted, so the chained hookscript %s is not run", volume)
		return 1
	}
	status, err := execChained(ctx, o.Host, volume, e)
	switch {
	case err != nil:
		o.Log.Fail(err)
	case status != 0:
		o.Log.Fail(hint.Errorf("see what it printed; pve-nvidia-hook only passes its exit status on",
			"the chained hookscript %s ended with exit status %d", volume, status))
	}
	return status
}

func execChained(ctx context.Context, h host.Host, volume string, e Event) (int, error) {
	file := volume
	if !filepath.IsAbs(volume) {
		storages, err := pve.ReadStorages(h.Root)
		if err == nil {
			file, err = storages.Path(volume)
		}
		if err != nil {
			return 1, fmt.Errorf("find the chained hookscript: %w", err)
		}
		file = h.Path(file)
	}
	ctx, cancel := context.WithTimeout(ctx, chainLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, strconv.Itoa(e.VMID), string(e.Phase))
	cmd.Env = append(os.Environ(), envChained+"="+chainedCall(e))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		return 1, fmt.Errorf("the chained hookscript %s ended by %v", volume, exit)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // the path has been named
	}
	return 1, hint.Errorf(fmt.Sprintf("repair it; pve-nvidia-hook doctor %d tells how to drop it", e.VMID), "run the chained hookscript %s: %w", volume, err)
}
