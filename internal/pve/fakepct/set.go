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

// options reads "--key value" and "--key=value"; one dash does as well.
func options(args []string) (map[string]string, []string, error) {
	values, remove := map[string]string{}, []string{}
	for len(args) > 0 {
		name, ok := strings.CutPrefix(args[0], "-")
		name = strings.TrimPrefix(name, "-")
		if !ok {
			return nil, nil, die("400 too many arguments%s", setUsage)
		}
		args = args[1:]
		name, value, given := strings.Cut(name, "=")
		if name != "delete" && !known.MatchString(name) {
			return nil, nil, die("Unknown option: %s\n400 unable to parse option%s", name, setUsage)
		}
		if !given {
			if len(args) == 0 {
				return nil, nil, die("Option %s requires an argument\n400 unable to parse option%s", name, setUsage)
			}
			value, args = args[0], args[1:]
		}
		if name == "delete" {
			remove = append(remove, strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(",; ", r) })...)
			continue
		}
		values[name] = value
	}
	if len(values)+len(remove) == 0 {
		return nil, nil, die("no options specified")
	}
	for _, key := range remove {
		if !known.MatchString(key) {
			return nil, nil, die("400 Parameter verification failed.\ndelete: unknown option '%s'\n%s", key, setUsage)
		}
		if _, both := values[key]; both {
			return nil, nil, die("400 Parameter verification failed.\ndelete: you can't use '-%s' and -delete %s' at the same time\n%s", key, key, setUsage)
		}
	}
	return values, remove, nil
}

func set(vmid int, args []string) error {
	values, remove, err := options(args)
	if err != nil {
		return err
	}
	for key, value := range values {
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
		return c.update(values, remove)
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

// update does what Proxmox does with a running and with a stopped container:
// of a running one a new devN is plugged in at once, a changed or deleted one
// waits in [pve:pending] for the next start.
func (c *conf) update(values map[string]string, remove []string) error {
	up := running(c.vmid)
	for _, key := range remove {
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
		delete(c.pending.values, key)
		if !up || fast.MatchString(key) {
			delete(c.live.values, key)
		} else if live {
			c.setDeletions(append(c.deletions(), key))
		}
	}
	for key, value := range values {
		if err := check(key, value); err != nil {
			return err
		}
		c.setDeletions(slices.DeleteFunc(c.deletions(), func(k string) bool { return k == key }))
		delete(c.pending.values, key)
		old, exists := c.live.values[key]
		if old == value {
			continue
		}
		if !up || fast.MatchString(key) || device.MatchString(key) && !exists {
			c.live.values[key] = value
		} else {
			c.pending.values[key] = value
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	return c.checkDevices()
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

// checkDevices dies for a device that is gone, as writing the LXC configuration does at each start and change.
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
