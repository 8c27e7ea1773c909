package lxc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Cmd is a command to run in the container as its root.
type Cmd struct {
	Args    []string          // Args[0] is looked up in PATH; no shell is involved
	Env     []string          // K=V, besides PATH and container=lxc
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

// marker names the variable that marks what Run starts in the container; its
// value is random for each Run. What inherits it is found again by it.
const marker = "PVE_NVIDIA_HOOK_RUN"

const defaultKeep = 64 << 10

// Run runs a command by lxc-attach --clear-env and waits for its end. An error
// means that there is no exit status to speak of: the container is gone
// (ErrNotRunning), ctx was cancelled, or the deadline passed (ErrDeadline). In
// each case nothing that the command started is left running in the container:
// only what has left the command's session, cleared its environment and lost its
// parent, all three, is not found.
//
// A command that goes wild on output gives OnLine the first 2000 lines and then
// 500 a second, and says how many were left out.
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
	if len(cmd.Args) == 0 || cmd.Timeout <= 0 {
		return Result{}, errors.New("no command or no timeout")
	}
	for _, kv := range cmd.Env {
		if strings.IndexByte(kv, '=') < 1 {
			return Result{}, errors.New("a variable without name or value")
		}
	}
	if err := c.alive(); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	// lxc-attach asks at the monitor's socket itself, and believes whoever answers.
	switch pid, err := askMonitor(c.lxcPath, c.name); {
	case err == nil && pid != c.pid, errors.Is(err, errImpostor), errors.Is(err, errNobody):
		return Result{}, ErrNotRunning
	case errors.Is(err, errUnseen):
		return Result{}, err
	}
	keep := cmd.Keep
	if keep <= 0 {
		keep = defaultKeep
	}
	lines := &reporter{onLine: cmd.OnLine, budget: linesBurst, last: time.Now()}
	stdout, err := newStream(keep, lines)
	if err != nil {
		return Result{}, err
	}
	stderr, err := newStream(keep, lines)
	if err != nil {
		stdout.close()
		return Result{}, err
	}
	mark := marker + "=" + rand.Text()
	options, env := passEnv(append([]string{mark}, cmd.Env...))
	args := append([]string{"-P", c.lxcPath, "-n", c.name, "--clear-env"}, options...)
	attach := exec.Command("lxc-attach", append(append(args, "--"), cmd.Args...)...)
	attach.Env = append(hostEnv(), env...)
	attach.Dir = "/"
	attach.Stdout, attach.Stderr = stdout.write, stderr.write
	// A session of its own, so that what the command starts can be told by it;
	// without a terminal lxc-attach makes no session inside. The death signal
	// comes when the starting thread ends, hence the lock: it stays while this
	// function does.
	attach.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// A pipe in any case: /dev/null here is the host's, whose mode root in a
	// privileged container could change by the descriptor.
	stdinRead, stdinWrite, err := os.Pipe()
	if err != nil {
		stdout.close()
		stderr.close()
		return Result{}, err
	}
	attach.Stdin = stdinRead
	defer stdinWrite.Close()
	begin := time.Now()
	err = attach.Start()
	stdout.write.Close()
	stderr.write.Close()
	stdinRead.Close()
	if err != nil {
		stdout.close()
		stderr.close()
		if errors.Is(err, exec.ErrNotFound) {
			err = hint.Wrap(err, installLXC)
		}
		return Result{}, err
	}
	if cmd.Stdin != nil {
		go feed(stdinWrite, cmd.Stdin)
	} else {
		stdinWrite.Close()
	}
	go stdout.run()
	go stderr.run()

	// The end of lxc-attach is noticed without taking its exit status: until
	// that is taken its pid, and so its session, cannot be given to another.
	pid := attach.Process.Pid
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	timer := time.NewTimer(cmd.Timeout)
	defer timer.Stop()
	var why error
	select {
	case <-ended:
	case <-timer.C:
		why = fmt.Errorf("%w: %s", ErrDeadline, cmd.Timeout)
	case <-ctx.Done():
		why = context.Cause(ctx)
	}
	if why != nil || cmd.Reap {
		if left := c.end(target{marks: []string{mark}, session: pid, attach: pid}, ended); left != nil && why != nil {
			why = errors.Join(why, left)
		}
	}
	waited := make(chan error, 1)
	go func() { waited <- attach.Wait() }()
	select {
	case err = <-waited:
	case <-time.After(300 * time.Millisecond): // in the kernel, beyond SIGKILL
		stdout.finish()
		stderr.finish()
		return Result{}, errors.Join(why, fmt.Errorf("lxc-attach (process %d) does not end", pid))
	}
	stdout.finish()
	stderr.finish()
	lines.end()
	res := Result{Code: -1, Stdout: stdout.tail.bytes(), Stderr: stderr.tail.bytes(), Elapsed: time.Since(begin)}
	var exit *exec.ExitError
	switch {
	case why != nil:
		return res, why
	case err != nil && !errors.As(err, &exit):
		return res, err
	}
	res.Code = attach.ProcessState.ExitCode()
	if status := attach.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		res.Code = 128 + int(status.Signal())
	}
	return c.judge(res)
}

// Path is the search path of commands in the container, unless Cmd.Env names
// another.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// passEnv gives the options and the environment by which lxc-attach hands
// variables on. Those of the command line go before what the container's
// configuration sets (lxc.environment, of which Proxmox VE writes TERM, and all
// that an OCI image names). Every user of the host sees a command line, though,
// and a proxy's address may hold a password; so that goes by lxc-attach's own
// environment, and so does the mark.
func passEnv(vars []string) (options, env []string) {
	for _, kv := range append([]string{"PATH=" + Path}, vars...) {
		name, _, _ := strings.Cut(kv, "=")
		if name == marker || strings.HasSuffix(strings.ToLower(name), "_proxy") {
			options = append(options, "--keep-var", name)
			env = append(env, kv)
		} else {
			options = append(options, "-v", kv)
		}
	}
	return options, env
}

func (r *reporter) end() {
	if r.onLine != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.flush()
	}
}

// judge tells the status of the command from that of lxc-attach itself, which
// uses 1 and 255 for its own failures and then says why in its last line.
func (c *Container) judge(res Result) (Result, error) {
	if res.Code == 0 {
		return res, nil
	}
	if err := c.alive(); err != nil {
		return res, err
	}
	if res.Code == 128+int(unix.SIGKILL) && c.dying() {
		return res, ErrNotRunning
	}
	said := bytes.TrimSpace(res.Stderr)
	last := string(said[bytes.LastIndexByte(said, '\n')+1:])
	if !strings.HasPrefix(last, "lxc-attach: ") {
		return res, nil
	}
	switch {
	case res.Code == 126 || res.Code == 127:
	case strings.Contains(last, "Failed to exec"):
		res.Code = 126
	case res.Code == 1 || res.Code == 255:
		code := res.Code
		res.Code = -1
		return res, fmt.Errorf("exit status %d: %s", code, clean(last))
	}
	return res, nil
}
