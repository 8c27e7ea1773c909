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
// may serve that one (FUSE, an overlay over it, NFS), or when the kernel has to ask
// the file system for a name: for that it waits, beyond SIGKILL, for the lock of a
// folder, which a process of the container can hold for ever. The names in /dev can
// be read on the same terms. After such a failure Beyond is true, and what was found
// is not the whole of it.
func OpenLocal(ctx context.Context, lxcPath string, vmid int) (*Container, error) {
	c, err := Open(ctx, lxcPath, vmid)
	if err != nil {
		return nil, err
	}
	c.local = true
	if !c.plain(c.root) {
		c.beyond.Store(true)
		return c, nil
	}
	// Only now may the root be asked for a name. What is mounted on it is not
	// asked anything by FUSE when it is opened like this.
	c.dev, err = unix.Openat2(c.root, "dev", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | resolveCached,
	})
	switch {
	case err != nil:
		c.dev = -1
	case !c.plain(c.dev):
		unix.Close(c.dev)
		c.dev = -1
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
	return dir, name, unix.RESOLVE_NO_XDEV | resolveCached, nil
}

// resolveCached is RESOLVE_CACHED of linux/openat2.h (Linux 5.12): the kernel looks
// only at what it knows of the names, without a lock and without asking the file
// system, else it answers EAGAIN.
const resolveCached = 0x20

// localTypes are file systems behind which no process of the container stands, as
// long as it has no block device that one serves (loop, nbd), and whose files are
// read without a lock that one which writes can hold. XFS and ZFS have such a lock.
var localTypes = []string{"ext4", "ext3", "ext2", "btrfs", "tmpfs", "devtmpfs"}

// plain reports whether a descriptor lies in a mount of such a file system. The
// descriptor keeps the mount, so its number is no other's meanwhile.
func (c *Container) plain(fd int) bool {
	id, found := mountID(fd), false
	_ = c.eachMount(func(m mount) bool {
		if m.id == id {
			found = slices.Contains(localTypes, m.kind)
		}
		return m.id != id
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
