// Package pve knows Proxmox VE: its configuration files, and how a container is
// made to use this program (hookscript and device entries, set by pct) and to
// do without it again.
//
// /etc/pve is only read here; what changes goes through pct, which takes
// Proxmox's locks and checks.
package pve

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// maxFile is the size that the cluster file system allows a file.
const maxFile = 1 << 20

// maxDev is the highest number of a devN entry.
const maxDev = 255

// Conf is a guest's configuration file: the live section, what is to change at
// the next start, and the snapshots, which a rollback makes live again.
type Conf struct {
	VMID int
	Section
	Pending   Section
	Delete    []string // keys that [pve:pending] deletes
	Snapshots []Snapshot
}

// Snapshot is the section of one snapshot.
type Snapshot struct {
	Name string
	Section
}

// Section is what this program reads of one section.
type Section struct {
	Hostname, Hookscript string
	Entrypoint           string // what is run as init; "": /sbin/init
	Unprivileged         bool   // root there is not root on the host
	Template             bool   // it is cloned, never started

	Dev map[int]string // devN, such as "/dev/nvidia0,mode=0666"
	LXC []KV           // raw lxc.* lines in their order
}

// KV is a raw LXC setting.
type KV struct{ Key, Value string }

// The lines of a configuration, as Proxmox's own parser takes them.
var (
	sectionLine  = lazy.Regexp(`^\[([^\]]*)\]\s*$`)
	snapshotName = lazy.Regexp(`^[A-Za-z][A-Za-z0-9_-]+$`)
	lxcLine      = lazy.Regexp(`^(lxc\.[a-z0-9_.-]+)(?::|\s*=)\s*(.*?)\s*$`)
	valueLine    = lazy.Regexp(`^([a-z][a-z_]*)([0-9]*):\s*(.+?)\s*$`)
)

// ParseConf reads the configuration file, of at most 1 MiB, of a container or
// of a VM. Lines that Proxmox would not understand are passed over, as it does itself.
func ParseConf(r io.Reader, vm bool) (Conf, error) {
	raw, err := readBounded(r)
	if err != nil {
		return Conf{}, fmt.Errorf("read guest configuration: %w", err)
	}
	var c Conf
	at := &c.Section
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\r\n")
		if m := sectionLine().FindStringSubmatch(line); m != nil {
			if begun := c.begin(m[1], vm); begun != nil {
				at = begun
			}
		} else if strings.HasPrefix(line, "#") {
			continue
		} else if m := lxcLine().FindStringSubmatch(line); m != nil {
			at.LXC = append(at.LXC, KV{m[1], m[2]})
		} else if m := valueLine().FindStringSubmatch(line); m != nil {
			if at == &c.Pending && m[1]+m[2] == "delete" {
				c.Delete = deletions(m[3])
				continue
			}
			at.set(m[1], m[2], m[3])
		}
	}
	return c, nil
}

// begin returns what the lines below a section's heading are about, or nil
// where the heading is none. A VM has sections of other kinds too, such as
// [special:cloudinit], which nothing is read of.
func (c *Conf) begin(name string, vm bool) *Section {
	pending := "pve:pending"
	if vm {
		pending = "pending"
	}
	switch {
	case strings.EqualFold(name, pending):
		c.Pending, c.Delete = Section{}, nil
		return &c.Pending
	case snapshotName().MatchString(name):
		c.Snapshots = append(c.Snapshots, Snapshot{Name: name})
		return &c.Snapshots[len(c.Snapshots)-1].Section
	case vm:
		return new(Section)
	}
	return nil
}

func (s *Section) set(key, number, value string) {
	if number != "" {
		n, err := strconv.Atoi(number)
		if err != nil || n > maxDev {
			return
		}
		if key == "dev" {
			put(&s.Dev, n, value)
		}
		return
	}
	switch key {
	case "hostname", "name": // a VM's is called name
		s.Hostname = value
	case "unprivileged":
		s.Unprivileged = truth(value)
	case "template":
		s.Template = truth(value)
	case "hookscript":
		s.Hookscript = value
	case "entrypoint":
		s.Entrypoint = value
	}
}

func put(m *map[int]string, n int, value string) {
	if *m == nil {
		*m = map[int]string{}
	}
	(*m)[n] = value
}

func truth(value string) bool {
	switch strings.ToLower(value) {
	case "1", "on", "yes", "true":
		return true
	}
	return false
}

// deletions splits the list of a pending "delete:"; a "!" before a key means force.
func deletions(list string) []string {
	keys := splitList(list)
	for i, key := range keys {
		keys[i] = strings.TrimPrefix(key, "!")
	}
	return keys
}

// splitList splits a list as Proxmox does: by commas, semicolons and blanks.
func splitList(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(",; \t", r) })
}

// Next is the section that the next start makes live: the live one with the
// pending changes taken in, of the keys that this program sets. Proxmox takes
// in the deletions first, so that a pending value wins over its deletion.
func (c Conf) Next() Section {
	next := c.Section
	next.Dev = map[int]string{} // never nil
	maps.Copy(next.Dev, c.Dev)
	if slices.Contains(c.Delete, "hookscript") {
		next.Hookscript = ""
	}
	maps.DeleteFunc(next.Dev, func(n int, _ string) bool { return slices.Contains(c.Delete, dev(n)) })
	maps.Copy(next.Dev, c.Pending.Dev)
	if c.Pending.Hookscript != "" {
		next.Hookscript = c.Pending.Hookscript
	}
	if slices.Contains(c.Delete, "entrypoint") {
		next.Entrypoint = ""
	}
	next.Entrypoint = cmp.Or(c.Pending.Entrypoint, next.Entrypoint)
	return next
}

// value is what the section says of hookscript or a devN, or "".
func (s Section) value(key string) string {
	if n, ok := devNumber(key); ok {
		return s.Dev[n]
	}
	return s.Hookscript
}

// devNumber is the N of the key devN.
func devNumber(key string) (int, bool) {
	number, ok := strings.CutPrefix(key, "dev")
	n, err := strconv.Atoi(number)
	return n, ok && err == nil
}

// Waits reports whether changes of hookscript or devices wait for the next start.
func (c Conf) Waits() bool {
	for _, key := range c.Delete {
		if key == "hookscript" || strings.HasPrefix(key, "dev") {
			return true
		}
	}
	return c.Pending.Hookscript != "" || len(c.Pending.Dev) > 0
}

// Hookscripts lists the hookscript volumes that the file names: live, pending, and in
// snapshots, because a rollback brings their lines back.
func (c Conf) Hookscripts() []string {
	found := []string{c.Hookscript, c.Pending.Hookscript}
	for _, s := range c.Snapshots {
		found = append(found, s.Hookscript)
	}
	return slices.DeleteFunc(found, func(volume string) bool { return volume == "" })
}

// devPath returns the path of a devN entry: its first item, bare or as path=.
func devPath(value string) string {
	for item := range strings.SplitSeq(value, ",") {
		if path, ok := strings.CutPrefix(item, "path="); ok {
			return path
		}
		if !strings.Contains(item, "=") {
			return item
		}
	}
	return ""
}

// readConfig reads a file of /etc/pve.
func readConfig(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

// readBounded reads a file as it is, of at most 1 MiB.
func readBounded(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return raw, err
}
