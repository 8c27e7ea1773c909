package lock

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is what /proc/self/mountinfo says of the mount that holds a folder.
type mount struct{ kind, source, options string }

// kind names the file system of dir for an error: "nfs4 on server:/export".
func kind(dir string) string {
	m, err := mountOf(dir)
	if err != nil {
		return "unknown file system"
	}
	if m.source == "" || m.source == m.kind || m.source == "none" {
		return m.kind
	}
	return m.kind + " on " + m.source
}

// MayNotExclude names the file system of dir, such as "fuse.sshfs on host:/dir",
// when it is one of FUSE, whose locks may hold on this node only: that is up to the
// program that serves it. It is "" for others, and for those of FUSE whose servers
// keep the locks of all nodes.
func MayNotExclude(dir string) string {
	m, err := mountOf(dir)
	if err != nil || m.kind != "fuse" && !strings.HasPrefix(m.kind, "fuse.") || m.kind == "fuse.glusterfs" || m.kind == "fuse.ceph-fuse" {
		return "" // fuseblk is a disk of this node
	}
	return kind(dir)
}

// localLocks returns the mount option that keeps locks of a network file system
// on this node: nolock and local_lock of nfs(5), nobrl of mount.cifs(8).
func localLocks(dir string) string {
	m, err := mountOf(dir)
	if err != nil {
		return ""
	}
	return m.localLocks()
}

func (m mount) localLocks() string {
	var bad []string
	switch m.kind {
	case "nfs", "nfs4":
		bad = []string{"nolock", "local_lock=all", "local_lock=flock"}
	case "cifs", "smb3":
		bad = []string{"nobrl"}
	}
	for _, o := range strings.Split(m.options, ",") {
		for _, b := range bad {
			if o == b {
				return o
			}
		}
	}
	return ""
}

// mountOf finds the mount of dir by its device number.
func mountOf(dir string) (mount, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return mount{}, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mount{}, err
	}
	defer f.Close()
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	var found mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if d, m, ok := parseMount(lines.Text()); ok && d == device {
			found = m
		}
	}
	if found.kind == "" {
		return mount{}, fmt.Errorf("no mount of device %s", device)
	}
	return found, lines.Err()
}

// parseMount reads one line of mountinfo, whose form proc_pid_mountinfo(5) gives:
// "36 35 98:0 /root /point options shared:1 - nfs4 server:/export rw,vers=4.2".
func parseMount(line string) (device string, m mount, ok bool) {
	front, back, ok := strings.Cut(line, " - ")
	f, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(f) < 6 || len(b) < 3 {
		return "", mount{}, false
	}
	return f[2], mount{kind: b[0], source: b[1], options: f[5] + "," + b[2]}, true
}
