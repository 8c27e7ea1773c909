package lxc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Cmd is a command to run in the container as its root.
type Cmd struct {
	Args    []string          // Args[0] is looked up in PATH; no shell is involved
	Env     []string          // K=V, besides PATH and container=lxc
	Stdin   io.Reader         // nil: at EOF
	Timeout time.Duration     // must be over 0
	Keep    int               // bytes of stdout and of stderr that are kept, the last ones; 0: 64 KiB
	OnLine  func(line string) // called for each line of stdout and stderr, made harmless by say.Clean, lines cut at 500 bytes
	Reap    bool              // when it ends in time too, end what it left running
}

// Result is how a command ended.
type Result struct {
	Code   int // exit status; 128+n for a signal; 127 not found, 126 not executable
	Stdout []byte
	Stderr []byte
}

// Err is nil for exit status 0. Else it names the status and the last line.
func (r Result) Err() error {
	if r.Code == 0 {
		return nil
	}
	return fmt.Errorf("exit status %d: %s", r.Code, r.LastLine())
}

// LastLine is the last line that the command printed, on stderr if it printed there,
// made harmless by say.Clean.
func (r Result) LastLine() string {
	for _, out := range [][]byte{r.Stderr, r.Stdout} {
		if text := strings.TrimSpace(string(out)); text != "" {
			return say.Clean(text[strings.LastIndexByte(text, '\n')+1:], 300)
		}
	}
	return "it printed nothing"
}

const defaultKeep = 64 << 10

// pipeWait is how long the end of the output is waited for when the command has
// ended. A daemon that it has left running may hold the pipes for ever.
const pipeWait = time.Second

// Run runs a command by lxc-attach --clear-env and waits for its end. An error
// means that there is no exit status: the container is gone (ErrNotRunning), ctx
// was cancelled, or the deadline passed (ErrDeadline). After an error nothing that
// the command started runs in the container any more.
//
// OnLine gets the first 2000 lines and then 500 a second, and is told how many
// were left out.
func (c *Container) Run(ctx context.Context, cmd Cmd) (Result, error) {
	res, err := c.run(ctx, cmd)
	if err != nil {
		name := ""
		if len(cmd.Args) > 0 {
			name = cmd.Args[0]
		}
		return res, fmt.Errorf("run %s in container %s: %w", name, c.name, err)
	}
	return res, nil
}

func (c *Container) run(ctx context.Context, cmd Cmd) (Result, error) {
	if err := c.runnable(ctx, cmd); err != nil {
		return Result{}, err
	}
	all, err := c.hierarchies()
	if err != nil {
		return Result{}, c.orGone(err)
	}
	leaf, err := newLeaf(all[0])
	if err != nil {
		return Result{}, c.orGone(err)
	}
	defer func() {
		if !c.Alive() {
			c.prune(all)
		}
	}()
	out := newOutput(cmd)
	// The kernel kills lxc-attach when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	limited, cancel := context.WithTimeoutCause(ctx, cmd.Timeout, fmt.Errorf("%w: %s", ErrDeadline, cmd.Timeout))
	defer cancel()
	attach, err := c.attachWithin(limited, cmd, leaf, all[1:], out)
	if err != nil {
		return Result{}, errors.Join(c.orFrozen(c.orGone(err), all), leaf.end(context.Background()))
	}
	err = c.await(limited, attach, leaf, all)
	if err == nil && cmd.Reap {
		_ = leaf.end(context.Background()) // the next KillStrays names what does not end
	} else {
		_ = leaf.remove() // unless a daemon runs in it
	}
	out.finish()
	res := Result{Code: -1, Stdout: out.stdout.tail(), Stderr: out.stderr.tail()}
	if err != nil {
		return res, err
	}
	res.Code = attach.ProcessState.ExitCode()
	if status := attach.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		res.Code = 128 + int(status.Signal())
	}
	return c.judge(res)
}

// runnable checks the command, and that lxc-attach would enter this container.
func (c *Container) runnable(ctx context.Context, cmd Cmd) error {
	if len(cmd.Args) == 0 || cmd.Timeout <= 0 {
		return errors.New("no command or no timeout")
	}
	for _, kv := range cmd.Env {
		if strings.IndexByte(kv, '=') < 1 {
			return errors.New("a variable without name or value")
		}
	}
	if err := c.alive(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// lxc-attach asks at the monitor's socket too, and believes any answer.
	switch pid, err := askInitPid(c.lxcPath, c.name); {
	case err == nil && pid != c.pid, errors.Is(err, errImpostor), errors.Is(err, errNobody):
		return ErrNotRunning
	case errors.Is(err, errUnseen):
		return err
	}
	return nil
}

// await waits for the end of lxc-attach. When ctx ends first, everything in the leaf is
// ended, and the error says why.
func (c *Container) await(ctx context.Context, attach *exec.Cmd, leaf leaf, all []hierarchy) error {
	ended := make(chan error, 1)
	go func() {
		// It is waited for when it was moved: until then its number can be no
		// other's, such as that of a process of the container in the same leaf.
		leave(attach.Process.Pid, leaf, all)
		ended <- attach.Wait()
	}()
	select {
	case err := <-ended:
		if attach.ProcessState != nil {
			return nil // its exit status tells the rest
		}
		return err
	case <-ctx.Done():
	}
	why := errors.Join(c.orFrozen(context.Cause(ctx), all), leaf.end(context.Background()))
	time.AfterFunc(200*time.Millisecond, func() { _ = attach.Process.Kill() }) // if it has not seen the end
	select {
	case <-ended:
	case <-time.After(500 * time.Millisecond):
		why = errors.Join(why, fmt.Errorf("lxc-attach (process %d) does not end", attach.Process.Pid))
	}
	return why
}

// orGone returns err, or ErrNotRunning when the container is the reason for it.
func (c *Container) orGone(err error) error {
	if gone := c.alive(); gone != nil {
		return gone
	}
	return err
}

// orFrozen ties a hint to a deadline that has passed because the container is frozen.
func (c *Container) orFrozen(err error, all []hierarchy) error {
	if errors.Is(err, ErrDeadline) && slices.ContainsFunc(all, hierarchy.frozen) {
		return hint.Wrap(err, fmt.Sprintf("the container is frozen, as a backup does for a while: try again when the backup has ended, or lxc-unfreeze -n %s", c.name))
	}
	return err
}
