package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// part is one section of a configuration: the live one, [pve:pending] or a snapshot.
type part struct {
	comment []string
	values  map[string]string
	lxc     []string
}

func newPart() *part { return &part{values: map[string]string{}} }

// conf is a whole file. It is written as Proxmox does: keys sorted, raw lxc
// lines last, then pending, then the snapshots.
type conf struct {
	vmid      int
	live      *part
	pending   *part
	snapshots map[string]*part
}

var (
	sectionLine = regexp.MustCompile(`(?i)^\[(pve:pending|[a-z][a-z0-9_-]+)\]\s*$`)
	lxcLine     = regexp.MustCompile(`^(lxc\.[a-z0-9_.-]+)(?::|\s*=)\s*(.*?)\s*$`)
	valueLine   = regexp.MustCompile(`^([a-z][a-z_]*[0-9]*):\s*(.+?)\s*$`)
)

func confPath(vmid int) string { return fmt.Sprintf("nodes/%s/lxc/%d.conf", node(), vmid) }

func load(vmid int) (*conf, error) {
	c, err := read(below("etc/pve", confPath(vmid)), vmid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, exit{2, fmt.Sprintf("Configuration file '%s' does not exist", confPath(vmid))}
	}
	return c, err
}

func read(file string, vmid int) (*conf, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &conf{vmid: vmid, live: newPart(), pending: newPart(), snapshots: map[string]*part{}}
	at := c.live
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			at = newPart()
			if strings.EqualFold(m[1], "pve:pending") {
				c.pending = at
			} else {
				c.snapshots[m[1]] = at
			}
		} else if strings.HasPrefix(line, "#") {
			at.comment = append(at.comment, line)
		} else if m := lxcLine.FindStringSubmatch(line); m != nil {
			at.lxc = append(at.lxc, m[1]+": "+m[2])
		} else if m := valueLine.FindStringSubmatch(line); m != nil {
			at.values[m[1]] = m[2]
		} else if strings.TrimSpace(line) != "" {
			fmt.Fprintf(os.Stderr, "vm %d - unable to parse config: %s\n", vmid, line)
		}
	}
	return c, nil
}

func (p *part) text() string {
	var b strings.Builder
	for _, line := range p.comment {
		if _, anew := p.values["description"]; !anew {
			b.WriteString(line + "\n")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.values)) {
		if key != "description" {
			fmt.Fprintf(&b, "%s: %s\n", key, p.values[key])
			continue
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(p.values[key], "\n"), "\n") {
			b.WriteString("#" + strings.ReplaceAll(line, "%", "%25") + "\n")
		}
	}
	for _, line := range p.lxc {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func (c *conf) save() error {
	text := c.live.text()
	if len(c.pending.values) > 0 {
		text += "\n[pve:pending]\n" + c.pending.text()
	}
	for _, name := range slices.Sorted(maps.Keys(c.snapshots)) {
		text += "\n[" + name + "]\n" + c.snapshots[name].text()
	}
	path := below("etc/pve", confPath(c.vmid))
	tmp := fmt.Sprintf("%s.tmp.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, []byte(text), 0o640); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// list splits a list as Proxmox does.
func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(",; ", r) })
}

// deletions are the keys that go at the next start.
func (c *conf) deletions() []string { return list(c.pending.values["delete"]) }

func (c *conf) setDeletions(keys []string) {
	slices.Sort(keys)
	c.pending.values["delete"] = strings.Join(slices.Compact(keys), ",")
	if len(keys) == 0 {
		delete(c.pending.values, "delete")
	}
}

func (c *conf) undelete(key string) {
	c.setDeletions(slices.DeleteFunc(c.deletions(), func(k string) bool { return k == key }))
}

func confFiles() []string {
	files, _ := filepath.Glob(below("etc/pve/nodes", node(), "lxc/*.conf"))
	return files
}
