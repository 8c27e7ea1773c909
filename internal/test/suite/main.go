// Command suite runs go test on the packages that it is given, with all that the
// tests need checked before, and nothing of them left after: their temporary files
// lie in a lab, which goes, with its mounts, even when this process is killed and
// only the next one can remove it.
//
//	suite -- [go test's arguments]
//	suite -in trixie [-run 'make test']
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// endLimit is how long the tests have after a signal to remove what they made.
const endLimit = time.Minute

func main() {
	in := flag.String("in", "", "a suite of Debian: run a command in a clean container of it")
	command := flag.String("run", "bash .ci/run", "the command for -in, for a shell in the clone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	if *in != "" {
		err = runIn(ctx, *in, *command)
	} else {
		err = test(ctx, flag.Args())
	}
	if err == nil {
		return
	}
	if failed := new(exec.ExitError); !errors.As(err, &failed) || ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "suite: error:", err)
	}
	if h := hint.Of(err); h != "" {
		fmt.Fprintln(os.Stderr, "suite: hint:", h)
	}
	if ctx.Err() != nil {
		os.Exit(130)
	}
	os.Exit(1)
}

func test(ctx context.Context, args []string) (err error) {
	l, err := lab.Open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// The tests' own labs first, in case they were killed.
		limited, cancel := context.WithTimeout(context.Background(), endLimit)
		defer cancel()
		err = errors.Join(err, lab.Sweep(limited), l.Close())
	}()
	tmp := filepath.Join(l.Dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	return run(ctx, "go", append([]string{"test"}, args...), "TMPDIR="+tmp, labtest.EnvNeed+"=1")
}

// run runs a program, whose output is this one's. When ctx ends, the program and
// all that it has started get SIGINT, and SIGKILL when they do not end in time.
func run(ctx context.Context, name string, args []string, env ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	group := func(s syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, s) }
	cmd.Cancel = func() error { return group(syscall.SIGINT) }
	cmd.WaitDelay = endLimit
	err := cmd.Run()
	if cmd.Process != nil {
		_ = group(syscall.SIGKILL) // what go has left
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was interrupted: %w", name, context.Cause(ctx))
	}
	return err
}
