package lxc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Each command runs in a cgroup of its own (a leaf), so that the kernel can end it
// with everything that it started. The leaf lies in the folder that carries the
// container's limits. On Proxmox VE that is lxc/VMID, beside the container's own
// cgroup lxc/VMID/ns, and the container can neither see the leaf nor leave it.
// Plain LXC has one folder for both; root in such a container can leave.

// leafPrefix begins the name of each leaf.
const leafPrefix = "pve-nvidia-hook."

// killLimit is how long killed processes may take to end. A hook that is told to
// end has 5 s until SIGKILL.
const killLimit = 1500 * time.Millisecond

// cgroupRoot is where Linux distributions and LXC mount the cgroup hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// Cgroup returns the absolute path, on the host, of the container's own cgroup
// folder in the unified hierarchy (cgroup v2). LXC's monitor tells it.
func (c *Container) Cgroup() (string, error) { return c.cgroup(getCgroup) }

// cgroup returns what the monitor answers for the unified hierarchy to getCgroup
// or getLimitCgroup.
func (c *Container) cgroup(question uint32) (string, error) {
	root, err := unified()
	if err != nil {
		return "", err
	}
	// LXC knows the hierarchy by the name of a controller in it. Without a
	// controller it has no name.
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(controllers)), " ")
	path, err := askCgroup(c.lxcPath, c.name, question, name)
	if err != nil {
		return "", fmt.Errorf("cgroup of container %s: %w", c.name, err)
	}
	return filepath.Join(root, path), nil
}

// unified returns where cgroup v2 is mounted: alone, or beside v1.
func unified() (string, error) {
	for _, root := range []string{cgroupRoot, cgroupRoot + "/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return root, nil
		}
	}
	return "", hint.Errorf("boot the node without systemd.unified_cgroup_hierarchy=0 and without systemd.legacy_systemd_cgroup_controller",
		"no cgroup v2 is mounted at %s", cgroupRoot)
}

// legacy returns the container's folders in the cgroup v1 hierarchies, none where
// the node has only v2. lxc-attach enters no cgroup when it is to stay in the leaf,
// so whoever starts it must enter these: they carry limits and device rules.
func (c *Container) legacy() ([]string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var folders []string
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, ":", 3) // NUMBER:CONTROLLERS:PATH, cgroups(7)
		if len(fields) != 3 || fields[1] == "" {
			continue
		}
		root := filepath.Join(cgroupRoot, strings.TrimPrefix(fields[1], "name="))
		if _, err := os.Stat(root); err != nil {
			continue // not mounted, so LXC does not use it
		}
		first, _, _ := strings.Cut(fields[1], ",")
		path, err := askCgroup(c.lxcPath, c.name, getCgroup, first)
		if errors.Is(err, errHungUp) {
			continue // LXC's answer for a hierarchy that it does not use
		}
		if err != nil {
			return nil, fmt.Errorf("%s cgroup of container %s: %w", first, c.name, err)
		}
		folders = append(folders, filepath.Join(root, path))
	}
	return folders, nil
}

// leaf is the folder of a cgroup of ours.
type leaf string

func (c *Container) newLeaf() (leaf, error) {
	folder, err := c.cgroup(getLimitCgroup)
	if err != nil {
		return "", err
	}
	l := leaf(filepath.Join(folder, leafPrefix+rand.Text()))
	if err := os.Mkdir(string(l), 0o755); err != nil {
		return "", err
	}
	if _, err := os.Stat(l.file("cgroup.kill")); err != nil {
		_ = l.remove()
		return "", hint.Errorf("boot Linux 5.14 or newer", "the kernel cannot end a cgroup: %w", err)
	}
	return l, nil
}

// KillStrays ends what earlier runs have left running in the container, and
// returns how many processes that were. A daemon that a run has left on purpose
// counts as well.
func (c *Container) KillStrays(ctx context.Context) (int, error) {
	if !c.Alive() {
		return 0, nil
	}
	folder, err := c.cgroup(getLimitCgroup)
	if err != nil {
		return 0, err
	}
	leaves, err := filepath.Glob(filepath.Join(folder, leafPrefix+"*"))
	if err != nil {
		return 0, err
	}
	killed := 0
	for _, name := range leaves {
		l := leaf(name)
		killed += len(l.processes())
		if err := l.end(ctx); err != nil {
			return killed, fmt.Errorf("end what is left in container %s: %w", c.name, err)
		}
	}
	return killed, nil
}

func (l leaf) file(name string) string { return filepath.Join(string(l), name) }

// processes lists the process ids in the leaf as the host numbers them.
func (l leaf) processes() []string {
	text, _ := os.ReadFile(l.file("cgroup.procs")) // it fails when the leaf is gone
	return strings.Fields(string(text))
}

// end kills everything in the leaf and removes it.
func (l leaf) end(ctx context.Context) error {
	err := os.WriteFile(l.file("cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the container has stopped, and LXC has removed it
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	for {
		err := l.remove()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			left := l.processes()
			return fmt.Errorf("%d processes do not end: %s", len(left), strings.Join(left[:min(len(left), 5)], " "))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// remove removes the leaf. It returns EBUSY while a process lives in it.
func (l leaf) remove() error {
	if err := unix.Rmdir(string(l)); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: string(l), Err: err}
	}
	return nil
}
