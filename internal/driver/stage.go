package driver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
)

// stage is the folder in the container in which an install works. It does not
// stand in /tmp or /run: a booting init mounts over these.
const (
	stage     = record.Folder + "/stage"
	stageBin  = stage + "/bin"
	stageTree = stage + "/tree"
	stageTmp  = stage + "/tmp"
)

// kmodTools are what nvidia-installer insists on, with --no-kernel-module too,
// and what its uninstaller calls to unload modules. As no-ops, first in PATH,
// they make the first succeed without the kmod package and keep the second away
// from the host's modules, which a privileged container could reach.
var kmodTools = []string{"modprobe", "rmmod", "lsmod", "depmod"}

// Clear takes away what an earlier run that was killed has left behind: its
// mount and its files, not its processes (lxc.Container.KillStrays ends these,
// and comes first). Install and Uninstall end with it. It works on when ctx is
// cancelled, for 30 s at most.
func Clear(ctx context.Context, c *lxc.Container) error {
	// The work may have been cancelled; what it left must go all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if names, err := c.ReadDir(record.Folder, 1000); err == nil {
		for _, name := range names {
			// Written beside the record by a run that was killed before it
			// could give the file its name.
			if strings.HasPrefix(name, lxc.TempPrefix) {
				_ = c.Remove(path.Join(record.Folder, name)) // no harm if it stays
			}
		}
	}
	if _, err := c.Lstat(stage); err != nil {
		return nil
	}
	err := c.UnmountTree(ctx, stageTree)
	if err == nil {
		err = c.RemoveAll(stage)
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("clear %s in the container: %w", stage, err), "unmount and remove what others have put there, or restart the container")
	}
	return nil
}

// prepare makes an empty stage with the no-op kmod tools in it.
func prepare(ctx context.Context, c *lxc.Container) error {
	if err := Clear(ctx, c); err != nil {
		return err
	}
	for _, dir := range []string{record.Folder, stage, stageBin, stageTree, stageTmp} {
		if err := c.MkdirAll(dir, 0o755); err != nil {
			return unprepared(err)
		}
	}
	for _, tool := range kmodTools {
		if err := c.WriteFile(path.Join(stageBin, tool), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			return unprepared(err)
		}
	}
	return nil
}

// unprepared says what a person can do when the container takes no files.
func unprepared(err error) error {
	err = fmt.Errorf("prepare %s in the container: %w", stage, err)
	switch {
	case errors.Is(err, unix.EROFS):
		return hint.Wrap(err, "the container's disk is mounted read-only: look for ro=1 at its rootfs (pct config), and for disk errors in the host's kernel log")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return hint.Wrap(err, "the container's disk is full: make room or enlarge it (pct resize)")
	case errors.Is(err, lxc.ErrNotRunning):
		return err
	}
	return hint.Wrap(err, "something else in the container has the folder's name: look at "+stage+" there")
}
