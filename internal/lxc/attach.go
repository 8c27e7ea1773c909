package lxc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// attachWithin is attach that ends with ctx. In a frozen container (a backup freezes it)
// a process that is started in the leaf waits before its first instruction, and so
// does whoever starts it. The kernel can kill a frozen process too.
func (c *Container) attachWithin(ctx context.Context, cmd Cmd, leaf leaf, v1 []hierarchy, out *output) (*exec.Cmd, error) {
	started := make(chan struct{})
	go func() {
		over := ctx.Done()
		for {
			select {
			case <-started:
				return
			case <-over:
				over = nil
			case <-time.After(10 * time.Millisecond):
			}
			if over == nil { // again and again: it may not be in the leaf yet
				_ = os.WriteFile(leaf.file("cgroup.kill"), []byte("1"), 0)
			}
		}
	}()
	attach, err := c.attach(cmd, leaf, v1, out)
	close(started)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return attach, err
}

// attach starts lxc-attach in a leaf, on the thread of the caller.
func (c *Container) attach(cmd Cmd, leaf leaf, v1 []hierarchy, out *output) (*exec.Cmd, error) {
	folder, err := os.Open(string(leaf))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	options, env := passEnv(cmd.Env)
	args := append([]string{"-P", c.lxcPath, "-n", c.name, "--clear-env", "--elevated-privileges=CGROUP"}, options...)
	attach := exec.Command("lxc-attach", append(append(args, "--"), cmd.Args...)...)
	attach.Env = append(hostEnv(), env...)
	attach.Dir = "/"
	attach.Stdin, attach.Stdout, attach.Stderr = cmd.Stdin, &out.stdout, &out.stderr
	if cmd.Stdin == nil {
		// Not /dev/null: it is a file of the host, whose mode root in a privileged
		// container could change by the descriptor.
		attach.Stdin = strings.NewReader("")
	}
	attach.WaitDelay = pipeWait
	attach.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true, // the command gets no terminal of the caller's
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true,
		CgroupFD:    int(folder.Fd()),
		Ptrace:      len(v1) > 0, // it stops before its first instruction
	}
	if err := attach.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = hint.Wrap(err, installLXC)
		}
		return nil, err
	}
	if len(v1) > 0 {
		if err := enterStopped(attach.Process.Pid, v1); err != nil {
			_ = attach.Process.Kill()
			_ = attach.Wait()
			return nil, err
		}
	}
	return attach, nil
}

// enterStopped moves a process that was started with Ptrace into cgroups and lets
// it go on. It must be called on the thread that started the process.
func enterStopped(pid int, v1 []hierarchy) error {
	for {
		// WNOWAIT keeps the exit status of a process that has died for Wait.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	for _, h := range v1 {
		if err := join(h.own, pid); err != nil {
			return err
		}
	}
	return unix.PtraceDetach(pid)
}

// leave moves lxc-attach back to the cgroups of this process when it has started a
// process in the leaf. Else it might outlive the container there for a moment, and
// LXC could not remove the container's cgroups.
func leave(pid int, leaf leaf, all []hierarchy) {
	for range 1000 {
		processes := leaf.processes()
		if !slices.Contains(processes, strconv.Itoa(pid)) {
			return // it has ended
		}
		if len(processes) > 1 {
			for _, h := range all {
				_ = join(h.ours, pid)
			}
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Path is the search path of commands in the container, unless Cmd.Env names
// another.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// passEnv gives the options and the environment by which lxc-attach hands
// variables on. Those of the command line go before what the container's
// configuration sets (lxc.environment, of which Proxmox VE writes TERM, and all
// that an OCI image names). But every user of the host sees a command line, and a
// proxy's address may hold a password, so that goes by lxc-attach's environment.
func passEnv(vars []string) (options, env []string) {
	for _, kv := range append([]string{"PATH=" + Path}, vars...) {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasSuffix(strings.ToLower(name), "_proxy") {
			options = append(options, "--keep-var", name)
			env = append(env, kv)
		} else {
			options = append(options, "-v", kv)
		}
	}
	return options, env
}

// judge tells the status of the command from that of lxc-attach itself, which
// uses 1 and 255 for its own failures and then says why in its last line.
func (c *Container) judge(res Result) (Result, error) {
	if res.Code == 0 {
		return res, nil
	}
	wait := time.Duration(0)
	if res.Code == 128+int(unix.SIGKILL) {
		// When a container stops, its init ends only after all others were killed.
		wait = time.Second
	}
	if err := c.aliveAfter(wait); err != nil {
		return res, err
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
		err := fmt.Errorf("exit status %d: %s", code, say.Clean(last, lineLimit))
		if strings.Contains(last, "Resource temporarily unavailable") { // EAGAIN of fork
			err = hint.Wrap(err, "the container has as many processes as it may have (pids.max of its cgroup): end some of them, or restart it")
		}
		return res, err
	}
	return res, nil
}
