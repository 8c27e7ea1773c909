package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxUnmounts is how many mounts on one another UnmountTree takes away.
const maxUnmounts = 16

// MountTree mounts the host's folder tree at target in the container (an
// existing empty folder) as an overlay that nobody can write to, nosuid and
// nodev. The container's root can read and run the tree but not change a byte.
// The tree must be readable for all; in an unprivileged container its files
// belong to nobody (uid 65534). Mounts below the tree are not part of it.
// Files of the folders over stand in the place of those of the same name in the
// tree. It returns ErrNoMount (wrapped) where the kernel refuses the overlay.
func (c *Container) MountTree(ctx context.Context, tree, target string, over ...string) error {
	if err := c.mountTree(ctx, tree, target, over); err != nil {
		return fmt.Errorf("mount %s at %s in container %s: %w", tree, target, c.name, err)
	}
	return nil
}

func (c *Container) mountTree(ctx context.Context, tree, target string, over []string) error {
	mount, err := overlay(tree, over...)
	if err != nil {
		return err
	}
	err = c.inMountNamespace(ctx, func() error {
		fd, err := c.resolve(c.root, target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := emptyFolder(fd); err != nil {
			return err
		}
		return unix.MoveMount(int(mount.Fd()), "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
	if ctx.Err() == nil { // else the thread may still use it
		mount.Close()
	}
	return err
}

// UnmountTree takes away whatever MountTree left mounted at target, however often;
// nothing mounted is no error. Other mounts there are left alone.
func (c *Container) UnmountTree(ctx context.Context, target string) error {
	err := c.inMountNamespace(ctx, func() error {
		for range maxUnmounts {
			fd, err := c.resolve(c.root, target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return ignoreMissing(err)
			}
			ours, err := c.isOurs(fd)
			if err == nil && ours {
				// By the working folder, because a path would be resolved
				// again, and /proc here is the container's.
				if err = unix.Fchdir(fd); err == nil {
					err = unix.Unmount(".", unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				}
			}
			unix.Close(fd)
			if err != nil || !ours {
				return err
			}
		}
		return fmt.Errorf("more than %d mounts on one another", maxUnmounts)
	})
	if err != nil {
		return fmt.Errorf("unmount %s in container %s: %w", target, c.name, err)
	}
	return nil
}

// emptyFolder returns ENOTEMPTY for a folder that holds something. The container may
// have exchanged the empty one.
func emptyFolder(fd int) error {
	buf := make([]byte, 4096)
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		return err
	}
	if _, entries, _ := unix.ParseDirent(buf[:n], 1, nil); entries > 0 {
		return unix.ENOTEMPTY
	}
	return nil
}

// isOurs reports whether fd is the root of a mount as MountTree makes them: an
// overlay with our name as its source.
func (c *Container) isOurs(fd int) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	if err != nil {
		return false, err
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Mask&unix.STATX_MNT_ID == 0 {
		return false, nil
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	ours := false
	err = c.eachMount(func(m mount) bool {
		ours = m.id == id && m.kind == "overlay" && m.source == mountSource
		return m.id != id
	})
	return ours, err
}

// MountPoints lists where something is mounted in the container, by its init's
// view, as absolute paths.
func (c *Container) MountPoints() ([]string, error) {
	var points []string
	err := c.eachMount(func(m mount) bool {
		points = append(points, octal.Replace(m.point))
		return len(points) < maxPoints
	})
	if err != nil {
		return nil, fmt.Errorf("list the mounts of container %s: %w", c.name, err)
	}
	return points, nil
}

// maxPoints is how many mount points MountPoints lists: a genuine container has
// some dozens.
const maxPoints = 5000

// CanMount tells whether MountTree can mount a folder of this host, without
// entering a container: ErrNoMount (wrapped) is the reason why not.
func CanMount(tree string) error {
	mount, err := overlay(tree)
	if err != nil {
		return err
	}
	return mount.Close()
}

// mountSource is what our overlays name as their source.
const mountSource = "pve-nvidia-hook"

// emptyLayer is an empty folder below every overlay of ours. It stays: one that is
// removed can no longer be listed, and with it the whole.
const emptyLayer = "/run/pve-nvidia-hook/empty"

// overlay makes a mount that is attached nowhere yet, with a superblock of its
// own. A bind mount, however read-only and id-mapped, has the host's superblock.
// A process with the host's capabilities can use that to watch each file that is
// opened on the host's file system and to write to it (fanotify with
// FAN_MARK_FILESYSTEM), or to freeze it (FIFREEZE). Root of a privileged
// container is such a process, and whether a container is privileged is not
// asked here on purpose. An overlay without an upper layer stays read-only: the
// kernel refuses every remount (ovl_force_readonly).
func overlay(tree string, over ...string) (*os.File, error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(tree, &fsys); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: tree, Err: err}
	}
	fail := func(what string, err error) (*os.File, error) {
		return nil, fmt.Errorf("%w: overlay of %s: %s: %w", ErrNoMount, tree, what, err)
	}
	if fsys.Type == unix.FUSE_SUPER_MAGIC {
		// The kernel makes one, but the server may refuse what containers ask.
		return fail("it lies on FUSE", unix.EOPNOTSUPP)
	}
	// There must be two layers.
	if err := os.MkdirAll(emptyLayer, 0o755); err != nil {
		return fail("second layer", err)
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("fsopen", err)
	}
	defer unix.Close(fs)
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace
	layers := ""
	for _, layer := range append(slices.Clone(over), tree) {
		layers += escape(layer) + ":"
	}
	err = errors.Join(
		unix.FsconfigSetString(fs, "source", mountSource),
		unix.FsconfigSetString(fs, "lowerdir", layers+emptyLayer),
		unix.FsconfigSetString(fs, "nfs_export", "off"), // no open by file handle
	)
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return fail("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fail("fsmount", err)
	}
	return os.NewFile(uintptr(fd), tree), nil
}

// inMountNamespace runs fn in the container's mount namespace, on a thread that
// ends with it. Paths there are the container's, so fn uses descriptors only. When
// ctx ends first, fn may stay behind, stuck in a FUSE file system of the container.
func (c *Container) inMountNamespace(ctx context.Context, fn func() error) error {
	if err := c.alive(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go onThrowawayThread(func() {
		defer c.guard()()
		done <- c.enter(fn)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// A thread that does not come back keeps this process from ending.
		select {
		case err := <-done:
			return err
		case <-time.After(time.Second):
			c.abortStuck()
		}
		return ctx.Err()
	}
}

func (c *Container) enter(fn func() error) error {
	// A thread can change its mount namespace only when it shares its root
	// and working folder with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(c.pidfd, unix.CLONE_NEWNS); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrNotRunning
		}
		return fmt.Errorf("enter the mount namespace: %w", err)
	}
	return fn()
}

// onThrowawayThread runs fn on a thread that ends with it. The main thread is never
// used: it cannot end, and /proc/self shows its namespaces.
func onThrowawayThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThrowawayThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}
