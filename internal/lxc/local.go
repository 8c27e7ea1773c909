package lxc

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenLocal is Open for looks that must not hang: a path that leaves the file
// system of the container's root fails, as all do when a process of the container
// may serve that one (FUSE, an overlay over it, NFS). The names in /dev can be
// read on the same terms. After such a failure Beyond is true, and what was found
// is not the whole of it.
func OpenLocal(ctx context.Context, lxcPath string, vmid int) (*Container, error) {
	c, err := Open(ctx, lxcPath, vmid)
	if err != nil {
		return nil, err
	}
	c.local = true
	// An O_PATH descriptor asks nothing of a file system, and keeps its mount, so
	// that the number cannot become another's before it is looked up.
	c.dev, err = unix.Openat2(c.root, "dev", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		c.dev = -1
	}
	root, dev := c.mounts()
	if !dev {
		unix.Close(c.dev)
		c.dev = -1
	}
	if !root {
		c.beyond.Store(true)
	}
	return c, nil
}

// Beyond reports whether something had to be left out because it does not lie on
// a file system that OpenLocal allows.
func (c *Container) Beyond() bool { return c.beyond.Load() }

// base is where the kernel begins to resolve a path, and how far it may go.
func (c *Container) base(dir int, name string) (int, string, uint64, error) {
	if !c.local {
		return dir, name, 0, nil
	}
	if dir == c.root && name == "/dev" && c.dev >= 0 {
		dir, name = c.dev, "."
	}
	if c.beyond.Load() {
		return -1, "", 0, unix.EXDEV
	}
	return dir, name, unix.RESOLVE_NO_XDEV, nil
}

// localTypes are file systems behind which no process stands.
var localTypes = []string{"ext4", "ext3", "ext2", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "devtmpfs"}

// mounts reports of the container's root and of its /dev whether what is mounted
// there is such a file system, or one that the host has mounted for itself.
func (c *Container) mounts() (root, dev bool) {
	want := [2]string{mountID(c.root), mountID(c.dev)}
	var got [2]bool
	left := len(want)
	_ = c.eachMount(func(m mount) bool {
		for i, id := range want {
			if m.id == id {
				got[i] = slices.Contains(localTypes, m.kind) || hostHas(m.device)
				left--
			}
		}
		return left > 0
	})
	return got[0], got[1]
}

// hostHas reports whether a file system is mounted in our own mount namespace.
func hostHas(device string) bool {
	found := false
	_ = hostMounts(func(m mount) bool {
		found = m.device == device
		return !found
	})
	return found
}

// mountID is the number of the mount that a descriptor lies in, "" when it cannot
// be told. Unlike fstatfs and statx this asks no file system.
func mountID(fd int) string {
	text, err := readAt(unix.AT_FDCWD, "/proc/self/fdinfo/"+strconv.Itoa(fd), 4096)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}
