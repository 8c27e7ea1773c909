package lock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const otherFolder = "choose a folder on a file system with working locks, such as ext4, xfs, ZFS, or NFS mounted without nolock and local_lock"

// Excludes returns an error when flock on the file system of dir does not keep
// two openers apart, or keeps them apart on this node only though the file
// system is shared with others. dir must be writable.
func Excludes(dir string) error {
	m := mountOf(dir)
	fail := func(format string, args ...any) error {
		return hint.Errorf(otherFolder, "the locks of %s (%s) "+format, append([]any{dir, kind(m)}, args...)...)
	}
	one, two, err := openTwice(dir)
	if err != nil {
		return fail("cannot be tested: %w", err)
	}
	defer one.Close()
	defer two.Close()

	if err := tryExclusive(one); err != nil {
		return fail("do not work: %w", err)
	}
	switch err := tryExclusive(two); {
	case err == nil:
		return fail("do not work: two processes could hold the same lock")
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return fail("do not work: %w", err)
	}
	if option := localLocks(m); option != "" {
		return fail("do not reach other nodes: it is mounted with %s", option)
	}
	return nil
}

// MayNotExclude names the file system of dir, such as "fuse.sshfs on host:/dir",
// when its locks may hold on this node only. That cannot be seen from one node: it
// is up to the program that serves the file system (bindfs, sshfs and mergerfs keep
// locks to the node or leave them to what lies below). "" when nothing speaks for it.
func MayNotExclude(dir string) string {
	m := mountOf(dir)
	if m.FSType != "fuse" && !strings.HasPrefix(m.FSType, "fuse.") {
		return "" // fuseblk is a disk of this node
	}
	if slices.Contains([]string{"fuse.glusterfs", "fuse.ceph-fuse"}, m.FSType) {
		return "" // their servers keep the locks of all nodes
	}
	return kind(m)
}

// kind names a file system: "nfs4 on server:/export".
func kind(m mountinfo.Info) string {
	switch {
	case m.FSType == "":
		return "unknown file system"
	case m.Source == "" || m.Source == m.FSType || m.Source == "none":
		return m.FSType
	}
	return m.FSType + " on " + m.Source
}

// localLocks returns the mount option that keeps locks of a network file system
// on this node: nolock and local_lock of nfs(5), nobrl of mount.cifs(8).
func localLocks(m mountinfo.Info) string {
	var bad []string
	switch m.FSType {
	case "nfs", "nfs4":
		bad = []string{"nolock", "local_lock=all", "local_lock=flock"}
	case "cifs", "smb3":
		bad = []string{"nobrl"}
	}
	for _, o := range strings.Split(m.Options+","+m.VFSOptions, ",") {
		if slices.Contains(bad, o) {
			return o
		}
	}
	return ""
}

// mountOf returns the mount that dir lies on, an empty one when it is not known. It
// asks no server.
func mountOf(dir string) mountinfo.Info {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return mountinfo.Info{}
	}
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != st.Mnt_id, false })
	if err != nil || len(found) == 0 {
		return mountinfo.Info{}
	}
	return *found[0]
}

// openTwice opens a new file in dir twice, as two processes would. Where the file
// system can, the file never has a name, so that a process that is killed here
// leaves nothing. Locks belong to open files, not to names.
func openTwice(dir string) (one, two *os.File, err error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		one = os.NewFile(uintptr(fd), dir)
		if two, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0); err == nil {
			return one, two, nil
		}
		one.Close()
	}
	path := filepath.Join(dir, fmt.Sprintf(".locktest-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if one, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, nil, err
	}
	two, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	_ = os.Remove(path)
	if err != nil {
		one.Close()
		return nil, nil, err
	}
	return one, two, nil
}

func tryExclusive(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
