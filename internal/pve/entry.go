package pve

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
)

// ShareEntry is the line that mounts the node's shared driver, which lies at point, in
// a container. It names no VMID, so that a clone and a restored backup have it rightly.
//
// Root of a privileged container has the host's capabilities: on a mount that it
// shared with others it could hold up each open of a file (fanotify, leases). So it gets
// an overlay of its own over the mount. folders is the second layer, which has each
// folder of the mount, empty: the kernel lists a folder that only one layer has by
// that layer's own folder, whose lock the container could then hold for ever.
func ShareEntry(point, folders string, privileged bool) string {
	target := strings.TrimPrefix(record.Shared, "/")
	if privileged {
		return fmt.Sprintf("lxc.mount.entry: overlay %s overlay ro,nosuid,nodev,lowerdir=%s:%s,create=dir,optional 0 0", target, point, folders)
	}
	return fmt.Sprintf("lxc.mount.entry: %s %s none bind,ro,create=dir,optional 0 0", point, target)
}

// Shares tells whether the configuration file of a container of this node mounts the
// shared driver. Where there is no such file it does not.
func Shares(root string, vmid int) bool {
	c, err := ReadConf(root, vmid)
	return err == nil && c.Shared()
}

// Shared tells whether a section mounts the shared driver.
func (s Section) Shared() bool { return s.ShareEntry() != "" }

// ShareEntry is the line of a section that mounts the shared driver, "" when none does.
func (s Section) ShareEntry() string {
	for _, kv := range s.LXC {
		if mountsShare(kv.Key, kv.Value) {
			return kv.Key + ": " + kv.Value
		}
	}
	return ""
}

// isShareEntry tells whether a line mounts something where the shared driver belongs.
func isShareEntry(line string) bool {
	m := lxcLine().FindStringSubmatch(strings.TrimRight(line, "\r\n"))
	return m != nil && mountsShare(m[1], m[2])
}

func mountsShare(key, value string) bool {
	fields := strings.Fields(value)
	return key == "lxc.mount.entry" && len(fields) > 1 && path.Clean("/"+fields[1]) == record.Shared
}

// liveLines are the lines before the first section, each with its end.
func liveLines(text []byte) []string {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if sectionLine().MatchString(strings.TrimRight(line, "\r\n")) {
			break
		}
		lines = append(lines, line)
	}
	return lines
}

// withEntry returns a configuration file with entry as the one line that mounts the
// shared driver, or with none for "". Nothing else changes.
func withEntry(text []byte, entry string) []byte {
	live := liveLines(text)
	size := 0
	for _, line := range live {
		size += len(line)
	}
	rest := text[size:]
	standing := slices.IndexFunc(live, isShareEntry)
	if standing >= 0 && entry != "" && strings.TrimRight(live[standing], "\r\n") == entry && !slices.ContainsFunc(live[standing+1:], isShareEntry) {
		return text
	}
	live = slices.DeleteFunc(live, isShareEntry)
	if entry != "" {
		// Before the blank lines that part it from the next section.
		end := len(live)
		for end > 0 && strings.TrimSpace(live[end-1]) == "" {
			end--
		}
		if end > 0 && !strings.HasSuffix(live[end-1], "\n") {
			live[end-1] += "\n"
		}
		live = slices.Insert(live, end, entry+"\n")
	}
	return append([]byte(strings.Join(live, "")), rest...)
}

// lockWait is how long Proxmox's own tools wait for a container's lock.
const lockWait = 10 * time.Second

// SetShareEntry puts the line into a container's configuration file, or takes it out
// when entry is "", as Proxmox itself changes that file: under its lock, by a file
// beside it and a rename. pct cannot set lxc lines. It reports whether there was
// something to change; with dryRun nothing is.
func SetShareEntry(ctx context.Context, root string, g Guest, entry string, dryRun bool) (bool, error) {
	changed, err := setEntry(ctx, root, g, entry, dryRun)
	if err != nil {
		return false, fmt.Errorf("change the configuration of container %s: %w", g, err)
	}
	return changed, nil
}

func setEntry(ctx context.Context, root string, g Guest, entry string, dryRun bool) (bool, error) {
	file := at(root, "etc/pve/nodes", g.Node, "lxc", strconv.Itoa(g.VMID)+".conf")
	text, err := readConfig(file)
	if err != nil {
		return false, err
	}
	if bytes.Equal(withEntry(text, entry), text) {
		return false, nil
	}
	if dryRun {
		return true, nil
	}
	locks := at(root, "run/lock/lxc")
	if err := os.MkdirAll(locks, 0o755); err != nil {
		return false, err
	}
	held, err := lock.Take(ctx, filepath.Join(locks, fmt.Sprintf("pve-config-%d.lock", g.VMID)), lock.Options{Timeout: lockWait})
	if errors.Is(err, lock.ErrBusy) {
		return false, hint.Errorf("another task holds the container's lock (a start, a backup or a running hook): try again when it has ended", "can't lock it: %w", err)
	}
	if err != nil {
		return false, err
	}
	defer held.Release()
	if text, err = readConfig(file); err != nil {
		return false, err
	}
	if task := lockedFor(text); task != "" {
		return false, hint.Errorf(fmt.Sprintf("wait for the backup, snapshot or migration to end; remove a stale lock with pct unlock %d", g.VMID), "the container is locked (%s)", task)
	}
	next := withEntry(text, entry)
	return true, exchangeFile(file, text, next)
}

// exchangeFile puts next in the place of a file that still holds was.
func exchangeFile(file string, was, next []byte) (err error) {
	tmp := fmt.Sprintf("%s.tmp.%d", file, os.Getpid())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return hint.Wrap(err, "is the cluster without quorum? see pvecm status")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = f.Write(next)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	now, err := readConfig(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, was) {
		return hint.Errorf("try again", "%s was changed meanwhile", file)
	}
	return os.Rename(tmp, file)
}

// lockedFor is the task for which a container is locked, "" when it is not.
func lockedFor(text []byte) string {
	for _, line := range liveLines(text) {
		if m := valueLine().FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil && m[1]+m[2] == "lock" {
			return cmp.Or(m[3], "unknown")
		}
	}
	return ""
}
