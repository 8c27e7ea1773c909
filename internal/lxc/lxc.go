// Package lxc works on a running LXC container from the host: it starts
// commands in it, reads and writes files below its root, and mounts a folder of
// the host into it. The container is not trusted: every path below its root is
// resolved by the kernel inside that root, what is read has a limit, and what
// is started has a deadline.
package lxc

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// ErrNotRunning means that the container has no init process (any more).
var ErrNotRunning = errors.New("container is not running")

// ErrDeadline means that a command in the container ran past its deadline and
// was ended, with all that it had started.
var ErrDeadline = errors.New("deadline exceeded")

// ErrNoIDMap means that the kernel or a file system refuses the id-mapped mount
// that MountTree needs; the caller copies instead.
var ErrNoIDMap = errors.New("id-mapped mounts are not available")

// Container is a running container. It stays tied to the init process that it
// was opened with: after a reboot of the container it answers ErrNotRunning.
type Container struct { /* pid, pidfd, root fd, id map, lxcpath, name */
}

// Open finds the init process of container VMID below lxcPath (for instance
// /var/lib/lxc) by lxc-info and pins its root. It returns ErrNotRunning when
// there is none.
func Open(ctx context.Context, lxcPath string, vmid int) (*Container, error) { panic("todo") }

// Close lets go of the root; it changes nothing in the container.
func (c *Container) Close() error { panic("todo") }

// Pid is the init process as the host sees it.
func (c *Container) Pid() int { panic("todo") }

// Alive reports whether that init process still lives.
func (c *Container) Alive() bool { panic("todo") }

// Privileged reports whether root in the container is root on the host.
func (c *Container) Privileged() bool { panic("todo") }

// Info is what Stat and Lstat tell of a file below the container's root.
type Info struct {
	Mode fs.FileMode // type and permission bits
	Size int64       // bytes
	Rdev uint64      // of a device node
	UID  uint32      // owner as the host sees it
}

// Stat follows symbolic links, inside the container's root only.
// The error satisfies errors.Is(err, fs.ErrNotExist) when nothing is there.
func (c *Container) Stat(name string) (Info, error) { panic("todo") }

// Lstat tells of the name itself.
func (c *Container) Lstat(name string) (Info, error) { panic("todo") }

// Readlink returns the target of the symbolic link name, as it is written there.
func (c *Container) Readlink(name string) (string, error) { panic("todo") }

// ReadDir returns the names in a folder, sorted, and an error when there are more than most.
func (c *Container) ReadDir(name string, most int) ([]string, error) { panic("todo") }

// OpenFile opens a regular file for reading; anything else (a FIFO, a device, a
// folder) is an error and is never waited for.
func (c *Container) OpenFile(name string) (*os.File, error) { panic("todo") }

// ReadFile reads a regular file of at most limit bytes; a larger one is an error.
func (c *Container) ReadFile(name string, limit int64) ([]byte, error) { panic("todo") }

// WriteFile puts data at name by a temporary file and a rename, owned by the
// container's root. The folder must exist.
func (c *Container) WriteFile(name string, data []byte, mode fs.FileMode) error { panic("todo") }

// CopyIn writes what r holds to a new file name (it must not exist), owned by
// the container's root, and syncs it. It returns the bytes written.
func (c *Container) CopyIn(ctx context.Context, r io.Reader, name string, mode fs.FileMode) (int64, error) {
	panic("todo")
}

// MkdirAll makes a folder and its parents, owned by the container's root.
func (c *Container) MkdirAll(name string, mode fs.FileMode) error { panic("todo") }

// Remove removes one file, link or empty folder; what is not there is no error.
func (c *Container) Remove(name string) error { panic("todo") }

// RemoveAll removes name and all below it. It follows no link and enters no
// other mount.
func (c *Container) RemoveAll(name string) error { panic("todo") }

// Free returns the bytes that root in the container can still write at name.
func (c *Container) Free(name string) (uint64, error) { panic("todo") }

// Cmd is a command to run in the container as its root.
type Cmd struct {
	Args    []string          // Args[0] is looked up in PATH; no shell is involved
	Env     []string          // K=V, besides the default PATH and container=lxc
	Stdin   io.Reader         // nil: at EOF
	Timeout time.Duration     // must be over 0
	Keep    int               // bytes of stdout and of stderr that are kept, the last ones; 0: 64 KiB
	OnLine  func(line string) // called for each line of stdout and stderr, control characters made harmless, lines cut at 500 bytes
	Reap    bool              // when it ends in time too, end what it left running
}

// Result is how a command ended.
type Result struct {
	Code    int // exit status; 128+n for a signal; 127 not found, 126 not executable
	Stdout  []byte
	Stderr  []byte
	Elapsed time.Duration
}

// Run runs a command by lxc-attach --clear-env and waits for its end. An error
// means that there is no exit status to speak of: the container is gone
// (ErrNotRunning), ctx was cancelled, or the deadline passed (ErrDeadline). In
// each case nothing that the command started is left running in the container.
func (c *Container) Run(ctx context.Context, cmd Cmd) (Result, error) { panic("todo") }

// KillStrays ends what earlier runs that were killed have left running in the
// container, and returns how many processes it ended.
func (c *Container) KillStrays(ctx context.Context) (int, error) { panic("todo") }

// MountTree mounts the host's folder tree at target in the container (an
// existing empty folder), read-only, nosuid, nodev and id-mapped with a map that leaves out id 0,
// so that the container's root can read and run it but not change a byte.
// It returns ErrNoIDMap (wrapped) where that cannot be done.
func (c *Container) MountTree(ctx context.Context, tree, target string) error { panic("todo") }

// UnmountTree takes away whatever MountTree left mounted at target, however often; nothing mounted is no error.
func (c *Container) UnmountTree(ctx context.Context, target string) error { panic("todo") }
