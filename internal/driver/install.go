package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Ready checks what would make Install fail, before anything is written or
// removed for it: the configured options, the room on the container's disk, and
// what the container needs when the run file is to be copied into it. What an
// older driver takes is room too: it is removed first.
func Ready(c *lxc.Container, j Job, in *record.Installed) error {
	if err := j.knownFlags(); err != nil {
		return err
	}
	size, err := j.size()
	if err != nil {
		return err
	}
	size -= taken(c, j.arch(), in)
	if err := enough(c, "/usr", size, "for driver "+string(j.Version())); err != nil {
		return err
	}
	if j.Deliver != "push" {
		err := lxc.CanMount(j.Tree)
		switch {
		case err == nil:
			return nil
		case j.Deliver == "mount" || !errors.Is(err, lxc.ErrNoMount):
			return unmountable(err)
		}
	}
	return pushable(c, j, size)
}

func unmountable(err error) error {
	return hint.Wrap(fmt.Errorf("mount the unpacked run file in the container: %w", err),
		`set deliver = "push" to have it copied instead`)
}

// pushable checks that there is room for a copy of what is to be installed
// beside the size bytes of the driver itself.
func pushable(c *lxc.Container, j Job, size int64) error {
	copied, err := j.size()
	if err != nil {
		return err
	}
	return enough(c, path.Dir(record.Folder), copied+size, "to copy the unpacked run file in and install it")
}

// Install runs NVIDIA's installer for the user space in the container and
// returns how the run file was delivered, "mount" or "push". Its success proves
// nothing (the installer exits 0 after errors): call Verify. Whatever happens,
// what it put into the container to do so is gone when it returns, but for the
// record of what was begun.
func Install(ctx context.Context, c *lxc.Container, j Job) (delivered string, err error) {
	if err := prepare(ctx, c); err != nil {
		return "", err
	}
	defer func() {
		if cleared := Clear(ctx, c); cleared != nil {
			err = errors.Join(err, cleared)
		}
	}()
	if err := begin(c, j); err != nil {
		return "", err
	}
	if j.Deliver != "push" {
		err := mount(ctx, c, j)
		switch {
		case err == nil:
			return "mount", runInstaller(ctx, c, j)
		case j.Deliver == "mount" || !errors.Is(err, lxc.ErrNoMount):
			return "", unmountable(err)
		}
		j.Log.Infof("copying the unpacked run file instead of mounting it: %v", err)
	}
	if err := push(ctx, c, j); err != nil {
		return "push", err
	}
	return "push", runInstaller(ctx, c, j)
}

// enough checks that a container has room for need bytes at name, and some to spare.
func enough(c *lxc.Container, name string, need int64, what string) error {
	const spare = 64 << 20 // for ldconfig's cache, logs and the like
	need = max(need, 0)
	free, err := c.Free(name)
	if err != nil {
		return fmt.Errorf("read the free space of the container's disk: %w", err)
	}
	if free < uint64(need)+spare {
		return hint.Errorf(fmt.Sprintf("make room in the container or enlarge its disk by at least %s (pct resize)", say.Bytes(need+spare-int64(free))),
			"the container's disk has %s free, %s are needed %s", say.Bytes(int64(free)), say.Bytes(need+spare), what)
	}
	return nil
}

// InstallerLog is nvidia-installer's log in the container.
const InstallerLog = "/var/log/nvidia-installer.log"

// debugLines logs what a program prints, without empty lines.
func debugLines(log say.Log, who string) func(string) {
	return func(line string) {
		if strings.TrimSpace(line) != "" {
			log.Debugf("%s: %s", who, line)
		}
	}
}

func runInstaller(ctx context.Context, c *lxc.Container, j Job) error {
	if err := j.knownFlags(); err != nil {
		return err
	}
	// An installer that ends early writes no log: that of an earlier run would
	// be shown as its own.
	if err := c.Remove(InstallerLog); err != nil {
		j.Log.Debugf("%v", err)
	}
	args := append([]string{path.Join(stageTree, "nvidia-installer")}, j.Options()...)
	args = append(args, "--log-file-name="+InstallerLog)
	j.Log.Debugf("running %s", strings.Join(args, " "))
	result, err := c.Run(ctx, lxc.Cmd{
		Args:    args,
		Env:     []string{"PATH=" + stageBin + ":" + lxc.Path, "TMPDIR=" + stageTmp},
		Timeout: j.Timeout,
		OnLine:  debugLines(j.Log, "installer"),
		Reap:    true,
	})
	switch {
	case errors.Is(err, lxc.ErrDeadline):
		return hint.Errorf(cmp.Or(hint.Of(err), `see why it hangs in the container's `+InstallerLog+`, or raise "timeout" under [install]`),
			"nvidia-installer %s did not end within %v and was ended", j.Version(), j.Timeout)
	case err != nil:
		return fmt.Errorf("run nvidia-installer %s: %w", j.Version(), err)
	case result.Code != 0:
		return installerFailed(c, j, result)
	}
	sayMoved(c, j.Log)
	return nil
}
