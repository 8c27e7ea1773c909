package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit is for killing one container.
const stopLimit = 20 * time.Second

// young is how long a lab that is being made may lack its lock.
const young = time.Minute

// Sweep removes the labs whose owner is dead, with containers and mounts.
func Sweep(ctx context.Context) error {
	home, err := makeHome()
	if err != nil {
		return err
	}
	labs, err := os.ReadDir(filepath.Join(home, "labs"))
	if err != nil {
		return err
	}
	for _, entry := range labs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		dir := filepath.Join(home, "labs", entry.Name())
		if info, err := entry.Info(); err != nil || strings.HasPrefix(entry.Name(), ".new-") && time.Since(info.ModTime()) < young {
			continue
		}
		owner := filepath.Join(dir, "owner")
		lock, err := lockFile(owner, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) && wedged(owner) {
			// The end of the FUSE server lets the owner end, and its lock go.
			if err := stopAll(dir); err != nil {
				return err
			}
			limited, cancel := context.WithTimeout(ctx, stopLimit)
			lock, err = lockFileWait(limited, owner)
			cancel()
		}
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrNotExist) {
			continue // its owner lives, or has just removed it
		}
		if err != nil {
			return err
		}
		err = clear(dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove what lab %s has left: %w", dir, err)
		}
	}
	return nil
}

// wedged says whether the owner of a lab has been killed but cannot end, because
// one of its threads waits for a FUSE server, of which the lab's own containers
// may have some. Its lock lasts as long.
func wedged(owner string) bool {
	pid, err := os.ReadFile(owner)
	if err != nil {
		return false
	}
	// Not stat: the kernel may let its reader wait as long.
	status, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "status"))
	if err != nil {
		return false
	}
	const sigkill = 1 << (9 - 1)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			if strings.HasPrefix(value, "Z") { // of the first thread; others may go on
				return true
			}
		case "SigPnd", "ShdPnd":
			if pending, err := strconv.ParseUint(value, 16, 64); err == nil && pending&sigkill != 0 {
				return true
			}
		}
	}
	return false
}

func clear(dir string) error {
	if err := stopAll(dir); err != nil {
		return err
	}
	return demolish(dir)
}

// stopAll kills the containers of a lab, and those of labs that its owner has made
// in a home of their own, in the lab's folder for temporary files.
func stopAll(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "tmp/*/labs/*/lxc"))
	if err != nil {
		return err
	}
	for _, path := range append(paths, filepath.Join(dir, "lxc")) {
		containers, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, c := range containers {
			if err := stop(path, c.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// stop kills a container and waits until it is STOPPED.
func stop(path, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if _, err := os.Stat(filepath.Join(path, name, "config")); err != nil {
		return nil // not made far enough to run
	}
	state, err := output(ctx, "lxc-info", "-P", path, "-n", name, "-s", "-H")
	if err != nil {
		return fmt.Errorf("state of container %s: %w", name, err)
	}
	if strings.TrimSpace(state) == "STOPPED" {
		return nil
	}
	// lxc-stop fails for one that is on its way down already.
	stopped := command(ctx, "lxc-stop", "-P", path, "-n", name, "-k")
	if err := command(ctx, "lxc-wait", "-P", path, "-n", name, "-s", "STOPPED", "-t", "15"); err != nil {
		return fmt.Errorf("stop container %s: %w", name, errors.Join(stopped, err))
	}
	return nil
}

// demolish unmounts all below dir and removes it.
func demolish(dir string) error {
	for range 8 { // mounts may lie on one another
		mounts, err := MountsBelow(dir)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return os.RemoveAll(dir)
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", mounts[i], err)
			}
		}
	}
	return fmt.Errorf("remove %s: something stays mounted below it", dir)
}

// MountsBelow lists the mount points at and below dir, of this process's namespace.
func MountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found, nil
}
