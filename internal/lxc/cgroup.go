package lxc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// hierarchy is one of the host's cgroup hierarchies, with folders in it.
type hierarchy struct {
	own    string // the container's own
	limits string // the one that carries its limits, which may be the same
	ours   string // of this process
}

// Cgroup returns the absolute path, on the host, of the container's own cgroup
// folder in the unified hierarchy (cgroup v2). LXC's monitor tells it.
func (c *Container) Cgroup() (string, error) {
	root, name, err := unified()
	if err != nil {
		return "", err
	}
	return c.cgroup(getCgroup, root, name)
}

// cgroup returns what the monitor answers to getCgroup or getLimitCgroup, for the
// hierarchy that is mounted at root and has the named controller.
func (c *Container) cgroup(question uint32, root, controller string) (string, error) {
	path, err := askCgroup(c.lxcPath, c.name, question, controller)
	if err != nil {
		return "", fmt.Errorf("cgroup %s of container %s: %w", controller, c.name, err)
	}
	return filepath.Join(root, path), nil
}

// unified returns where cgroup v2 is mounted, alone or beside v1, and the name by
// which LXC knows it: its first controller, or nothing when it has none.
func unified() (root, name string, err error) {
	for _, root := range []string{cgroupRoot, cgroupRoot + "/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return "", "", err
		}
		name, _, _ := strings.Cut(strings.TrimSpace(string(controllers)), " ")
		return root, name, nil
	}
	return "", "", hint.Errorf("boot the node with systemd.unified_cgroup_hierarchy=1", "no cgroup v2 is mounted at %s", cgroupRoot)
}

// hierarchies returns the unified hierarchy and, where the node has them, those of
// cgroup v1 behind it. lxc-attach enters no cgroup when the command is to stay in the leaf, so
// it must be put into those of v1 before: they carry limits and device rules.
func (c *Container) hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	root2, name2, err := unified()
	if err != nil {
		return nil, err
	}
	all := make([]hierarchy, 1)
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // NUMBER:CONTROLLERS:PATH, cgroups(7)
		if len(fields) != 3 {
			continue
		}
		root, name := root2, name2
		if fields[0] != "0" {
			root = filepath.Join(cgroupRoot, strings.TrimPrefix(fields[1], "name="))
			name, _, _ = strings.Cut(fields[1], ",")
			if _, err := os.Stat(root); err != nil {
				continue // not mounted, so LXC does not use it
			}
		}
		h := hierarchy{ours: filepath.Join(root, fields[2])}
		if h.own, err = c.cgroup(getCgroup, root, name); err == nil {
			h.limits, err = c.cgroup(getLimitCgroup, root, name)
		}
		switch {
		case fields[0] == "0" && err == nil:
			all[0] = h
		case errors.Is(err, errHungUp) && fields[0] != "0": // LXC does not use it
		case err != nil:
			return nil, err
		default:
			all = append(all, h)
		}
	}
	if all[0].limits == "" {
		return nil, errors.New("/proc/self/cgroup names no cgroup v2")
	}
	return all, nil
}

// frozen reports whether the processes in the container's own cgroup are frozen, by
// cgroup.events of cgroup v2 or by the freezer of v1.
func (h hierarchy) frozen() bool {
	events, _ := os.ReadFile(filepath.Join(h.own, "cgroup.events"))
	state, _ := os.ReadFile(filepath.Join(h.own, "freezer.state"))
	return strings.Contains(string(events), "frozen 1") || strings.HasPrefix(string(state), "FROZEN")
}

// join moves a process into a cgroup.
func join(folder string, pid int) error {
	return os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// prune removes the cgroups of a container that has stopped. LXC cannot when a
// process of ours was still in them, and would not start the container again then.
func (c *Container) prune(all []hierarchy) {
	for range 50 {
		pid, err := askInitPid(c.lxcPath, c.name)
		gone := errors.Is(err, errNobody) // LXC's monitor has ended, too
		if !gone && (err != nil || pid != c.pid) {
			return // it runs again
		}
		if gone && !slices.ContainsFunc(all, func(h hierarchy) bool { return !removeTree(h.limits) }) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeTree removes a cgroup with those below it, such as ".lxc", which lxc-attach makes
// in the container's own. It reports whether the cgroup is gone: a process that has just
// ended keeps its cgroup for a moment.
func removeTree(folder string) bool {
	var folders []string
	_ = filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			folders = append(folders, name)
		}
		if len(folders) == mostCgroups {
			return fs.SkipAll
		}
		return nil
	})
	for _, name := range slices.Backward(folders) {
		_ = unix.Rmdir(name)
	}
	_, err := os.Lstat(folder)
	return errors.Is(err, fs.ErrNotExist)
}

// mostCgroups is how many cgroups of a container are removed at a time.
const mostCgroups = 1000

// leaf is the folder of a cgroup of ours.
type leaf string

func newLeaf(v2 hierarchy) (leaf, error) {
	l := leaf(filepath.Join(v2.limits, leafPrefix+rand.Text()))
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
	root, name, err := unified()
	if err != nil {
		return 0, err
	}
	folder, err := c.cgroup(getLimitCgroup, root, name)
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
