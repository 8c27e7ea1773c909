package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func lxcPath() string {
	if dir := os.Getenv("FAKEPCT_LXCPATH"); dir != "" {
		return dir
	}
	return "/var/lib/lxc"
}

func running(vmid int) bool {
	id := strconv.Itoa(vmid)
	if ids, ok := os.LookupEnv("FAKEPCT_RUNNING"); ok {
		return slices.Contains(strings.Split(ids, ","), id)
	}
	out, err := exec.Command("lxc-info", "-P", lxcPath(), "-n", id, "-s", "-H").Output()
	return err == nil && strings.TrimSpace(string(out)) == "RUNNING"
}

func state(vmid int) string {
	if running(vmid) {
		return "running"
	}
	return "stopped"
}

func listGuests() error {
	format := "%-10s %-10s %-12s %-20s\n"
	for i, file := range confFiles() {
		vmid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".conf"))
		if err != nil {
			continue
		}
		c, err := load(vmid)
		if err != nil {
			return err
		}
		if i == 0 {
			fmt.Printf(format, "VMID", "Status", "Lock", "Name")
		}
		fmt.Printf(format, strconv.Itoa(vmid), state(vmid), c.live.values["lock"], c.live.values["hostname"])
	}
	return nil
}

func status(vmid int, _ []string) error {
	if _, err := load(vmid); err != nil {
		return err
	}
	fmt.Println("status:", state(vmid))
	return nil
}

// config prints the configuration with the pending changes taken in, unless --current is given.
func config(vmid int, args []string) error {
	c, err := load(vmid)
	if err != nil {
		return err
	}
	if !slices.Contains(args, "--current") {
		for key, value := range c.pending.values {
			if key != "delete" {
				c.live.values[key] = value
			}
		}
		for _, key := range c.deletions() {
			delete(c.live.values, key)
		}
	}
	c.live.comment = nil
	fmt.Print(c.live.text())
	return nil
}

func execIn(vmid int, args []string) error {
	if _, err := load(vmid); err != nil {
		return err
	}
	if !running(vmid) {
		return die("container '%d' not running!", vmid)
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return lxc("lxc-attach", vmid, append([]string{"--"}, args...)...)
}

// start does what Proxmox does, in its order: pending changes, devices,
// pre-start (an error stops the start), LXC, post-start (an error is a warning), all under the lock.
// Whether it runs is asked before the lock alone: a second start that waited for
// it runs the hooks once more.
func start(vmid int, _ []string) error {
	if running(vmid) {
		return die("CT %d already running", vmid)
	}
	return withLock(vmid, func() error {
		c, err := load(vmid)
		if err != nil {
			return err
		}
		c.apply(nil)
		if err := c.save(); err != nil {
			return err
		}
		if err := c.checkDevices(); err != nil {
			return err
		}
		if err := hook(c, "pre-start", os.Stdout, os.Stderr); err != nil {
			return err
		}
		if !running(vmid) {
			if err := lxc("lxc-start", vmid, append([]string{"-d"}, c.mounts()...)...); err != nil {
				return err
			}
		}
		if err := lxc("lxc-wait", vmid, "-s", "RUNNING", "-t", "60"); err != nil {
			return die("startup for container '%d' failed", vmid)
		}
		if err := hook(c, "post-start", os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "WARN:", err)
		}
		return nil
	})
}

// mounts are the options of lxc-start that give a container its devices and what
// its lxc.mount.entry lines say, as Proxmox writes them into LXC's configuration.
func (c *conf) mounts() []string {
	var lines []string
	for key, value := range c.live.values {
		if device.MatchString(key) {
			path, _, _ := strings.Cut(strings.TrimPrefix(value, "path="), ",")
			lines = append(lines, below(path)+" "+strings.TrimPrefix(path, "/")+" none bind,create=file")
		}
	}
	for _, line := range c.live.lxc {
		if entry, ok := strings.CutPrefix(line, "lxc.mount.entry: "); ok {
			lines = append(lines, entry)
		}
	}
	var options []string
	for _, line := range lines {
		options = append(options, "-s", "lxc.mount.entry="+line)
	}
	return options
}

// reboot stops and starts, which takes pending changes in.
func reboot(vmid int, args []string) error {
	if err := stop(vmid, args); err != nil {
		return err
	}
	return start(vmid, args)
}

// stop runs pre-stop and, as lxc-start's own hook does, post-stop with its output
// lost. That hook then writes the configuration anew, with the same content.
func stop(vmid int, _ []string) error {
	return withLock(vmid, func() error {
		c, err := load(vmid)
		if err != nil {
			return err
		}
		if !running(vmid) {
			return die("CT %d not running", vmid)
		}
		if err := hook(c, "pre-stop", os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "WARN:", err)
		}
		if err := lxc("lxc-stop", vmid, "-k"); err != nil {
			return err
		}
		_ = hook(c, "post-stop", io.Discard, io.Discard)
		return c.save()
	})
}

func lxc(command string, vmid int, args ...string) error {
	cmd := exec.Command(command, append([]string{"-P", lxcPath(), "-n", strconv.Itoa(vmid)}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return exit{max(cmd.ProcessState.ExitCode(), 1), fmt.Sprintf("%s %d: %v", command, vmid, err)}
	}
	return nil
}

// pipe hides that a writer is a file, so that the hook gets a pipe of its own and its end is waited for.
type pipe struct{ io.Writer }

// hook runs the hookscript as Proxmox does: two arguments, stdin at EOF, two
// pipes that are read to their end, a bare environment, no time limit.
func hook(c *conf, phase string, stdout, stderr io.Writer) error {
	volume := c.live.values["hookscript"]
	if volume == "" {
		return nil
	}
	path, err := hookscript(volume)
	if err != nil {
		return err
	}
	cmd := exec.Command(below(path), strconv.Itoa(c.vmid), phase)
	cmd.Env = []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL=C"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "PVE_NVIDIA_HOOK_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdout, cmd.Stderr = &pipe{stdout}, &pipe{stderr}
	if err := cmd.Run(); err != nil {
		why := err.Error()
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			why = fmt.Sprintf("exit code %d", code)
		}
		return die("hookscript error for %d on %s: command '%s %d %s' failed: %s", c.vmid, phase, path, c.vmid, phase, why)
	}
	return nil
}
