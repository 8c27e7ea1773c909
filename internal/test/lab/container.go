package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what kind of container to make. The zero value with a VMID is an
// unprivileged one without init system and without network.
type Spec struct {
	VMID        int
	Privileged  bool
	Systemd     bool  // boots systemd; else a shell that only reaps is init
	Base        *Base // nil: Systemd or Minimal
	Plain       bool  // a full copy of the base root, no overlay
	MemoryLimit int64 // bytes; 0: none
	SizeLimit   int64 // bytes that can be written to the root; 0: none
	HostNet     bool  // the host's network, so that a server on loopback is reached; privileged only
	ExtraConfig []string
}

// Host is the configuration of a container that boots systemd and has containers
// of its own.
func Host() []string {
	return []string{
		"lxc.mount.auto = cgroup:rw:force",
		// Since version 256 systemd boots on a kernel with version 1 control
		// groups only when it is told so.
		"lxc.init.cmd = /sbin/init SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
	}
}

// Container is a container of a lab.
type Container struct {
	VMID    int
	LXCPath string
	Root    string // its root folder, as the host sees it
	Spec    Spec

	dir  string
	lab  *Lab
	own  bool // the lab was made for this container alone
	gone bool
}

// startLimit is for one lxc-start; under load with twenty at once it takes seconds.
const startLimit = 60 * time.Second

// New makes a container in a lab of its own. Close removes both.
func New(ctx context.Context, spec Spec) (*Container, error) {
	l, err := Open(ctx)
	if err != nil {
		return nil, err
	}
	c, err := l.Container(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c.own = true
	return c, nil
}

// Container makes a container in the lab; Start starts it. It may be called by
// several goroutines at once.
func (l *Lab) Container(ctx context.Context, spec Spec) (*Container, error) {
	if spec.HostNet && !spec.Privileged {
		return nil, fmt.Errorf("container %d: the host's network needs a privileged container: sysfs cannot be mounted otherwise", spec.VMID)
	}
	if err := ensureSubids(l.home); err != nil {
		return nil, err
	}
	base := Minimal
	if spec.Systemd {
		base = Systemd
	}
	if spec.Base != nil {
		base = *spec.Base
		spec.Systemd = slices.Contains(base.Add, "systemd-sysv")
	}
	lower, err := Build(ctx, base, !spec.Privileged)
	if err != nil {
		return nil, err
	}
	c := &Container{VMID: spec.VMID, LXCPath: l.Path, Spec: spec, lab: l,
		dir: filepath.Join(l.Path, strconv.Itoa(spec.VMID))}
	c.Root = filepath.Join(c.dir, "rootfs")
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("container %d: %w", spec.VMID, err)
	}
	err = c.make(ctx, lower)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("container %d: %w", spec.VMID, err), c.remove())
	}
	l.mu.Lock()
	l.containers = append(l.containers, c)
	l.mu.Unlock()
	return c, nil
}

func (c *Container) make(ctx context.Context, lower string) error {
	if err := openFolders(c.dir); err != nil {
		return err
	}
	if c.Spec.Plain && c.Spec.SizeLimit == 0 {
		if err := command(ctx, "cp", "-a", "--reflink=auto", lower, c.Root); err != nil {
			return err
		}
	} else if err := c.overlay(lower); err != nil {
		return err
	}
	if !c.Spec.Systemd {
		name := filepath.Join(c.Root, initPath)
		if err := errors.Join(os.WriteFile(name, []byte(initScript), 0o755), os.Chmod(name, 0o755)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(c.dir, "config"), []byte(c.config()), 0o644)
}

// The init of a container without systemd: a shell, since it reaps what is left
// to it, which sleep alone would not do.
const (
	initPath   = "/usr/local/sbin/lab-init"
	initScript = "#!/bin/bash\nwhile :; do sleep infinity & wait; done\n"
)

// overlay mounts the root: the base below, what the container writes above. The
// upper layer lies in a tmpfs when its size has a limit, and where the lab's
// folder cannot hold an upper layer (because it is an overlay itself).
func (c *Container) overlay(lower string) error {
	disk := filepath.Join(c.dir, "disk")
	if err := openFolders(disk, c.Root); err != nil {
		return err
	}
	try := func() error {
		upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
		if err := openFolders(upper, work); err != nil {
			return err
		}
		if !c.Spec.Privileged {
			if err := os.Chown(upper, Shift, Shift); err != nil {
				return err
			}
		}
		return unix.Mount("overlay", c.Root, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
	}
	if c.Spec.SizeLimit == 0 {
		err := try()
		if err == nil || !errors.Is(err, unix.EINVAL) {
			return wrap(err, "mount overlay")
		}
	}
	options := "mode=0755"
	if c.Spec.SizeLimit > 0 {
		options += ",size=" + strconv.FormatInt(c.Spec.SizeLimit, 10)
	}
	if err := unix.Mount("lab", disk, "tmpfs", 0, options); err != nil {
		return wrap(err, "mount tmpfs")
	}
	return wrap(try(), "mount overlay")
}

func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (c *Container) config() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("lxc.include = /usr/share/lxc/config/common.conf")
	if !c.Spec.Privileged {
		add("lxc.include = /usr/share/lxc/config/userns.conf")
		add("lxc.idmap = u 0 %d %d", Shift, IDs)
		add("lxc.idmap = g 0 %d %d", Shift, IDs)
	}
	if c.Spec.Systemd {
		add("lxc.include = /usr/share/lxc/config/nesting.conf")
	} else {
		add("lxc.init.cmd = %s", initPath)
	}
	add("lxc.apparmor.profile = unconfined")
	add("lxc.uts.name = lab%d", c.VMID)
	add("lxc.rootfs.path = dir:%s", c.Root)
	// As Proxmox VE has it: limits on one folder, the container's own below it.
	cgroup := fmt.Sprintf("lab-%s-%d", filepath.Base(c.lab.Dir), c.VMID)
	add("lxc.cgroup.dir.container = %s", cgroup)
	add("lxc.cgroup.dir.container.inner = ns")
	add("lxc.cgroup.dir.monitor = %s-monitor", cgroup)
	if c.Spec.HostNet {
		add("lxc.net.0.type = none")
	} else {
		add("lxc.net.0.type = empty")
	}
	if c.Spec.MemoryLimit > 0 {
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			add("lxc.cgroup2.memory.max = %d", c.Spec.MemoryLimit)
		} else {
			add("lxc.cgroup.memory.limit_in_bytes = %d", c.Spec.MemoryLimit)
		}
	}
	for _, line := range c.Spec.ExtraConfig {
		add("%s", line)
	}
	return b.String()
}

// Start starts the container and returns when it is RUNNING: its init process
// has been executed, which is the moment when Proxmox VE runs post-start.
func (c *Container) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	log := filepath.Join(c.dir, "log")
	if err := c.lxc(ctx, "lxc-start", "-d", "-l", "WARN", "-o", log); err != nil {
		text, _ := os.ReadFile(log)
		lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return !strings.Contains(line, " ERROR ") })
		return fmt.Errorf("start container %d: %w\n%s", c.VMID, err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	if err := c.lxc(ctx, "lxc-wait", "-s", "RUNNING", "-t", "30"); err != nil {
		return fmt.Errorf("start container %d: %w", c.VMID, err)
	}
	return nil
}

// WaitBooted waits until systemd in the container has come up. That some unit
// has failed is no error.
func (c *Container) WaitBooted(ctx context.Context) error {
	for {
		state, err := c.Attach(ctx, "systemctl", "is-system-running", "--wait")
		switch strings.TrimSpace(state) {
		case "running", "degraded":
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %d has not booted: %w", c.VMID, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Attach runs a command in the container and returns what it said on stdout and
// stderr together.
func (c *Container) Attach(ctx context.Context, args ...string) (string, error) {
	return output(ctx, "lxc-attach", append([]string{"-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "--clear-env", "--"}, args...)...)
}

// Pid is the init process as the host sees it.
func (c *Container) Pid(ctx context.Context) (int, error) {
	out, err := output(ctx, "lxc-info", "-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "-p", "-H")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// Stop kills the container; it may be started again. One that does not run is no error.
func (c *Container) Stop() error {
	return stop(c.LXCPath, strconv.Itoa(c.VMID))
}

// Close stops the container and removes it.
func (c *Container) Close() error {
	if c.own {
		return c.lab.Close()
	}
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	return c.remove()
}

func (c *Container) remove() error {
	if c.gone {
		return nil
	}
	if err := errors.Join(c.Stop(), demolish(c.dir)); err != nil {
		return fmt.Errorf("remove container %d: %w", c.VMID, err)
	}
	c.gone = true
	return nil
}

func (c *Container) lxc(ctx context.Context, program string, args ...string) error {
	return command(ctx, program, append([]string{"-P", c.LXCPath, "-n", strconv.Itoa(c.VMID)}, args...)...)
}
