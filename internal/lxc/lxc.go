// Package lxc works on a running LXC container from the host: it starts
// commands in it, reads and writes files below its root, and mounts a folder of
// the host into it. The container is not trusted: every path below its root is
// resolved by the kernel inside that root, what is read has a limit, and what
// is started has a deadline.
//
// A container may have a FUSE file system at any path. One that never answers keeps
// a file operation in the kernel; it is ended after a while.
package lxc

import "errors"

// ErrNotRunning means that the container has no init process (any more).
var ErrNotRunning = errors.New("container is not running")

// ErrUnknown means that LXC knows no such container. It is an ErrNotRunning too.
var ErrUnknown error = unknown{}

type unknown struct{}

func (unknown) Error() string        { return "there is no container" }
func (unknown) Is(target error) bool { return target == ErrNotRunning }

// ErrDeadline means that a command in the container ran past its deadline and was
// ended, together with everything that it had started.
var ErrDeadline = errors.New("deadline exceeded")

// ErrNoMount means that the kernel or a file system refuses the mount that
// MountTree needs. The caller copies instead.
var ErrNoMount = errors.New("no mount is available that is safe from the container")
