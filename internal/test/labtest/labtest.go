// Package labtest gives a test its containers and takes them away after it.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// EnvNeed names the variable that, set to 1, turns a skip for want of LXC into
// a failure, so that a CI job cannot pass by testing nothing.
const EnvNeed = "PVE_NVIDIA_HOOK_NEED_LXC"

// limit covers a first build of a base root too.
const limit = 10 * time.Minute

// Need skips the test where no containers can be made.
func Need(t testing.TB) {
	t.Helper()
	if err := lab.Missing(); err != nil {
		without(t, fmt.Sprintf("%v (%s)", err, hint.Of(err)))
	}
}

// ShortDir is t.TempDir without the test's name: the name of the socket of a
// container below it may have 107 bytes.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Program skips the test where a program is missing.
func Program(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		without(t, name+" is missing")
	}
}

// Unmount takes all mounts at a place of the host away.
func Unmount(point string) {
	for unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
}

func without(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(EnvNeed) == "1" {
		t.Fatalf("%s=1, but %s", EnvNeed, what)
	}
	t.Skip(what)
}

// Open opens a lab that is closed at the end of the test, or when a signal ends
// this process.
func Open(t testing.TB) *lab.Lab {
	t.Helper()
	Need(t)
	watch()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	l, err := lab.Open(ctx)
	require.NoError(t, err)
	living.Store(l, nil)
	t.Cleanup(func() {
		living.Delete(l)
		require.NoError(t, l.Close())
	})
	return l
}

var living sync.Map // of *lab.Lab

// watch has a signal close all labs before it ends this process: containers that
// nobody stops would go on, and one of their FUSE servers might keep a thread of
// this process from ending.
var watch = sync.OnceFunc(func() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		got := <-signals
		fmt.Fprintf(os.Stderr, "%v: stopping all containers\n", got)
		living.Range(func(l, _ any) bool {
			if err := l.(*lab.Lab).Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return true
		})
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), got.(syscall.Signal))
	}()
})

// Start makes and starts a container in a lab of its own.
func Start(t testing.TB, spec lab.Spec) *lab.Container {
	t.Helper()
	return StartIn(t, Open(t), spec)
}

// StartIn makes and starts a container in a lab that is there.
func StartIn(t testing.TB, l *lab.Lab, spec lab.Spec) *lab.Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := l.Container(ctx, spec)
	require.NoError(t, err)
	require.NoError(t, c.Start(ctx))
	return c
}

// Hang runs a command that does not end, as lxc.Container.Run would.
func Hang(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cmd.Timeout, lxc.ErrDeadline)
	defer cancel()
	<-ctx.Done()
	return lxc.Result{}, context.Cause(ctx)
}
