package cuda

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// aptLocks are the files on which apt and dpkg hold a POSIX lock while they
// work. apt waits for the first two when told so, dpkg for none, and apt-get
// update not for the third.
var aptLocks = []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"}

// holder returns the process that holds a lock on one of the files, as the host
// numbers it, and file "" when none does.
func holder(c Container, files []string) (pid int, file string, err error) {
	for _, name := range files {
		pid, locked, err := c.LockedBy(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, "", fmt.Errorf("ask for the package tool's lock: %w", err)
		}
		if locked {
			return pid, name, nil
		}
	}
	return 0, "", nil
}

// waitLocks waits until no package tool works in the container, at most LockWait long.
func (j *job) waitLocks(ctx context.Context, files []string) error {
	ends := time.Now().Add(j.w.LockWait)
	tick := time.NewTicker(max(j.w.step/4, 10*time.Millisecond))
	defer tick.Stop()
	for said := false; ; {
		pid, file, err := holder(j.c, files)
		if err != nil || file == "" {
			return err
		}
		who := processName(pid)
		if time.Now().After(ends) {
			return hint.Errorf("let "+who+" come to its end, or end it, and run this again",
				"%s still holds %s after %s", who, file, j.w.LockWait)
		}
		if !said {
			j.log.Infof("waiting for %s in the container to finish (up to %s)", who, j.w.LockWait)
			said = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s, which holds %s: %w", who, file, ctx.Err())
		case <-tick.C:
		}
	}
}

func processName(pid int) string {
	if pid <= 0 {
		return "another package tool"
	}
	name := "a process"
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		name = say.Clean(strings.TrimSpace(string(comm)), 40)
	}
	return fmt.Sprintf("%s (pid %d on the host)", name, pid)
}

// locked runs a command that does not wait for a lock itself, again when
// someone took the lock in between.
func (j *job) locked(ctx context.Context, files []string, try func() (output, error)) (out output, err error) {
	for range 5 {
		if err := j.waitLocks(ctx, files); err != nil {
			return out, err
		}
		out, err = try()
		if err != nil || out.code == 0 || !out.contains("is locked by another process", "Could not get lock", "can't create transaction lock") {
			return out, err
		}
	}
	return out, err
}
