package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

var (
	known = regexp.MustCompile(`^(arch|cmode|console|cores|cpulimit|cpuunits|debug|description|features|hookscript|hostname|lock|memory|` +
		`nameserver|onboot|ostype|protection|rootfs|searchdomain|startup|swap|tags|template|timezone|tty|unprivileged|` +
		`(mp|unused|dev)([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])|net[0-9]|net[12][0-9]|net3[01])$`)
	// applied at once, running or not
	fast     = regexp.MustCompile(`^(description|onboot|startup|protection|hostname|hookscript|cores|tags|lock)$`)
	device   = regexp.MustCompile(`^dev[0-9]+$`)
	devField = regexp.MustCompile(`^(mode=0[0-7]{3}|uid=[0-9]+|gid=[0-9]+|deny-write=[01])$`)
)

const setUsage = "\npct set <vmid> [OPTIONS]"

// change is what a call of set asks for.
type change struct {
	values         map[string]string
	remove, revert []string
}

// options reads "--key value" and "--key=value"; one dash does as well.
func options(args []string) (change, error) {
	c := change{values: map[string]string{}}
	bad := func(format string, args ...any) (change, error) { return change{}, die(format, args...) }
	for len(args) > 0 {
		name, ok := strings.CutPrefix(args[0], "-")
		name = strings.TrimPrefix(name, "-")
		if !ok {
			return bad("400 too many arguments%s", setUsage)
		}
		args = args[1:]
		name, value, given := strings.Cut(name, "=")
		if name != "delete" && name != "revert" && !known.MatchString(name) {
			return bad("Unknown option: %s\n400 unable to parse option%s", name, setUsage)
		}
		if !given {
			if len(args) == 0 {
				return bad("Option %s requires an argument\n400 unable to parse option%s", name, setUsage)
			}
			value, args = args[0], args[1:]
		}
		switch name {
		case "delete":
			c.remove = append(c.remove, list(value)...)
		case "revert":
			c.revert = append(c.revert, list(value)...)
		default:
			c.values[name] = value
		}
	}
	if len(c.values)+len(c.remove)+len(c.revert) == 0 {
		return bad("no options specified")
	}
	for name, keys := range map[string][]string{"delete": c.remove, "revert": c.revert} {
		for _, key := range keys {
			if !known.MatchString(key) {
				return bad("400 Parameter verification failed.\n%s: unknown option '%s'\n%s", name, key, setUsage)
			}
			if _, both := c.values[key]; both {
				return bad("400 Parameter verification failed.\n%s: you can't use '-%s' and -%s %s' at the same time\n%s", name, key, name, key, setUsage)
			}
			if name == "delete" && slices.Contains(c.revert, key) {
				return bad("400 Parameter verification failed.\ndelete: you can't use '-delete %s' and '-revert %s' at the same time\n%s", key, key, setUsage)
			}
		}
	}
	return c, nil
}

func set(vmid int, args []string) error {
	wanted, err := options(args)
	if err != nil {
		return err
	}
	for key, value := range wanted.values {
		if err := checkFormat(key, value); err != nil {
			return err
		}
	}
	return withLock(vmid, func() error {
		c, err := load(vmid)
		if err != nil {
			return err
		}
		if lock := c.live.values["lock"]; lock != "" {
			return die("CT is locked (%s)", lock)
		}
		return c.update(wanted)
	})
}

func checkFormat(key, value string) error {
	bad := func(why string) error {
		return die("400 Parameter verification failed.\n%s: invalid format - %s\n%s", key, why, setUsage)
	}
	switch {
	case key == "hookscript":
		if storage, name, ok := strings.Cut(value, ":"); !ok || storage == "" || name == "" {
			return bad(fmt.Sprintf("unable to parse volume ID '%s'\n", value))
		}
	case device.MatchString(key):
		fields := strings.Split(value, ",")
		path := strings.TrimPrefix(fields[0], "path=")
		if !strings.HasPrefix(path, "/dev/") || strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./") {
			return bad(fmt.Sprintf("format error\n%s.path: %s is not a valid device path\n", key, path))
		}
		for _, field := range fields[1:] {
			if !devField.MatchString(field) {
				return bad("format error\n" + field)
			}
		}
	}
	return nil
}

// update does what Proxmox does, in its order (PVE::LXC::Config's
// update_pct_config): all goes to [pve:pending] first, and of there what the
// container can take now becomes live. Nothing is written when that fails.
func (c *conf) update(wanted change) error {
	for _, key := range wanted.revert {
		delete(c.pending.values, key)
		c.undelete(key)
	}
	changed := map[string]bool{}
	for _, key := range wanted.remove {
		_, live := c.live.values[key]
		_, pending := c.pending.values[key]
		if !live && !pending {
			fmt.Fprintf(os.Stderr, "cannot delete '%s' - not set in current configuration!\n", key)
			continue
		}
		if key == "memory" || key == "rootfs" || key == "ostype" {
			return die("unable to delete required option '%s'", key)
		}
		if key == "unprivileged" {
			return die("unable to delete read-only option: '%s'", key)
		}
		changed[key] = true
		c.setDeletions(append(c.deletions(), key)) // a pending value stays
	}
	for key, value := range wanted.values {
		if err := check(key, value); err != nil {
			return err
		}
		changed[key] = true
		c.pending.values[key] = value
		c.undelete(key)
	}
	c.cleanup()
	if running(c.vmid) {
		if err := c.hotplug(changed); err != nil {
			return err
		}
	} else {
		c.apply(changed)
	}
	if err := c.save(); err != nil {
		return err
	}
	return c.checkDevices()
}

// cleanup drops pending values that are live already, and deletions of what is not live.
func (c *conf) cleanup() {
	for key, value := range c.live.values {
		if c.pending.values[key] == value {
			delete(c.pending.values, key)
		}
	}
	c.setDeletions(slices.DeleteFunc(c.deletions(), func(key string) bool {
		_, live := c.live.values[key]
		return !live
	}))
}

// hotplug makes live of a running container what it can take. Of devices that
// is a new one, since Proxmox VE 9 (pve-container 6.0.4); a changed or deleted
// one waits for the next start.
func (c *conf) hotplug(changed map[string]bool) error {
	for _, key := range c.deletions() {
		if changed[key] && fast.MatchString(key) {
			delete(c.live.values, key)
			c.undelete(key)
		}
	}
	var failed []string
	for key := range changed {
		value, pending := c.pending.values[key]
		_, live := c.live.values[key]
		plugs := device.MatchString(key) && !live && os.Getenv("FAKEPCT_PVE") != "8"
		switch {
		case !pending || !plugs && !fast.MatchString(key):
		case plugs && slices.Contains(list(os.Getenv("FAKEPCT_HOTPLUG_FAILS")), key):
			failed = append(failed, fmt.Sprintf("%s: unable to hotplug %s: move_mount failed: No such file or directory", key, key))
		default:
			c.live.values[key] = value
			delete(c.pending.values, key)
		}
	}
	if len(failed) > 0 {
		slices.Sort(failed)
		return die("400 Parameter verification failed.\n%s\n%s", strings.Join(failed, "\n"), setUsage)
	}
	return nil
}

// apply makes pending changes live, those of changed or, where that is nil, all:
// first the deletions, then the values, so that a value wins over its deletion.
func (c *conf) apply(changed map[string]bool) {
	for _, key := range c.deletions() {
		if changed == nil || changed[key] {
			delete(c.live.values, key)
			c.undelete(key)
		}
	}
	c.cleanup()
	for key, value := range c.pending.values {
		if key != "delete" && (changed == nil || changed[key]) {
			c.live.values[key] = value
			delete(c.pending.values, key)
		}
	}
}

func check(key, value string) error {
	if key == "unprivileged" {
		return die("unable to modify read-only option: '%s'", key)
	}
	if key == "hookscript" {
		_, err := hookscript(value)
		return err
	}
	if device.MatchString(key) {
		return checkDevice(value)
	}
	return nil
}

func checkDevice(value string) error {
	path, _, _ := strings.Cut(value, ",")
	path = strings.TrimPrefix(path, "path=")
	fi, err := os.Stat(below(path))
	if errors.Is(err, fs.ErrNotExist) {
		return die("Device %s does not exist", path)
	}
	if err != nil {
		return die("Error accessing device %s", path)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Mode&syscall.S_IFMT != syscall.S_IFCHR && st.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		return die("%s is not a device", path)
	}
	return nil
}

// checkDevices dies for a device that is gone, as writing the LXC configuration does
// at each start and change.
func (c *conf) checkDevices() error {
	for key, value := range c.live.values {
		if device.MatchString(key) {
			if err := checkDevice(value); err != nil {
				return err
			}
		}
	}
	return nil
}

// hookscript returns the path of a hookscript volume, or why Proxmox would not run it.
func hookscript(volume string) (string, error) {
	storage, name, _ := strings.Cut(volume, ":")
	dirs, err := storages()
	if err != nil {
		return "", err
	}
	dir, ok := dirs[storage]
	if !ok {
		return "", die("storage '%s' does not exist", storage)
	}
	kind, file, ok := strings.Cut(name, "/")
	if !ok || dir == "" || file == "" || strings.Contains(file, "/") {
		return "", die("unable to parse directory volume name '%s'", name)
	}
	if kind != "snippets" {
		return "", die("'%s' is not in the snippets directory", volume)
	}
	path := filepath.Join(dir, "snippets", file)
	fi, err := os.Stat(below(path))
	if err != nil || !fi.Mode().IsRegular() {
		return "", die("script '%s' does not exist", volume)
	}
	if fi.Mode()&0o111 == 0 {
		return "", die("script '%s' is not executable", volume)
	}
	return path, nil
}

// storages maps the storages of storage.cfg to their folders ("" for those without one).
func storages() (map[string]string, error) {
	dirs := map[string]string{"local": "/var/lib/vz"}
	f, err := os.Open(below("etc/pve/storage.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return dirs, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	id := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		if kind, name, ok := strings.Cut(s.Text(), ": "); ok && !strings.ContainsAny(kind, " \t#") {
			id = strings.TrimSpace(name)
			dirs[id] = ""
			if kind == "nfs" || kind == "cifs" || kind == "cephfs" {
				dirs[id] = "/mnt/pve/" + id
			}
		} else if fields := strings.Fields(s.Text()); id != "" && len(fields) == 2 && fields[0] == "path" {
			dirs[id] = fields[1]
		}
	}
	dirs["local"] = "/var/lib/vz" // whatever is said of it
	return dirs, nil
}
