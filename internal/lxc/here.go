package lxc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// MountHere mounts a folder tree of the host at target on the host, as MountTree
// does in a container. What it has mounted there before is exchanged: whoever has
// that keeps it. The mount is made in the mount namespace of process 1, so that a
// unit with one of its own makes it for all.
func MountHere(ctx context.Context, tree, target string) error {
	err := inHostNamespace(ctx, func() error {
		mount, err := overlay(tree)
		if err != nil {
			return err
		}
		defer mount.Close()
		return exchange(int(mount.Fd()), target)
	})
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", tree, target, err)
	}
	return nil
}

// moveMountBeneath is MOVE_MOUNT_BENEATH of linux/mount.h, since Linux 6.5. A test
// sets a flag that every kernel refuses, as older ones refuse this one.
var moveMountBeneath = 0x200

// exchange puts a mount at target and takes away those of ours that are there. A new
// kernel does both with no moment in between at which nothing is mounted.
func exchange(mount int, target string) error {
	old, err := countHere(target)
	if err != nil {
		return err
	}
	if old > 0 {
		err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|moveMountBeneath)
		if err == nil {
			return unmountHere(target, old)
		}
		if err := unmountHere(target, old); err != nil {
			return err
		}
	}
	return unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// unmountHere takes the upper n mounts at target away. Whoever uses one keeps it.
func unmountHere(target string, n int) error {
	for range n {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return err
		}
	}
	return nil
}

// countHere counts our mounts at target in the mount namespace of this thread.
func countHere(target string) (int, error) {
	n := 0
	err := readMounts(unix.AT_FDCWD, "/proc/thread-self/mountinfo", func(m mount) bool {
		if octal.Replace(m.point) == target && m.kind == "overlay" && m.source == mountSource {
			n++
		}
		return true
	})
	return n, err
}

// hereLimit is for mounts on the host, which take milliseconds.
const hereLimit = 20 * time.Second

// inHostNamespace runs fn in the mount namespace of process 1, on a thread that ends
// with it. Where we may not look at that process, this host is a container itself, and
// our own namespace must do.
func inHostNamespace(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, hereLimit)
	defer cancel()
	done := make(chan error, 1)
	go onThrowawayThread(func() {
		done <- func() error {
			theirs, err := namespace(unix.AT_FDCWD, "/proc/1/ns/mnt")
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				return fn()
			}
			if err != nil {
				return err
			}
			ours, err := namespace(unix.AT_FDCWD, "/proc/thread-self/ns/mnt")
			if err != nil {
				return err
			}
			if theirs == ours {
				return fn()
			}
			ns, err := unix.Open("/proc/1/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(ns)
			if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(ns, unix.CLONE_NEWNS)); err != nil {
				return fmt.Errorf("enter the mount namespace of process 1: %w", err)
			}
			return fn()
		}()
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
