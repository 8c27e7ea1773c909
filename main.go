// pve-nvidia-hook keeps the user space of NVIDIA's driver in LXC containers of
// Proxmox VE equal to the host's kernel module.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cli"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// How long cleaning up may take after a signal. Proxmox VE sends SIGTERM when a
// task is stopped, and SIGKILL five seconds later. The process that waits for a
// worker gives it a little longer than the worker takes.
const (
	graceWorker = 1900 * time.Millisecond
	grace       = 2800 * time.Millisecond
	sayWait     = 100 * time.Millisecond // for a reader of the last line
)

func main() {
	syscall.Umask(0o022)
	_ = os.Unsetenv("GOMAXPROCS") // the snippet sets it for this program alone
	ctx, cancel := context.WithCancel(context.Background())
	signals := stopSignals()
	done := make(chan int, 1)
	go func() { done <- run(ctx, os.Args[1:]) }()
	select {
	case code := <-done:
		worker.Exit(code)
	case <-signals:
		cancel()
	}
	wait := grace
	if worker.Is() {
		wait = graceWorker
	}
	select {
	case code := <-done:
		worker.Exit(code)
	case <-time.After(wait):
		giveUp()
	}
}

// run is the program: Proxmox VE's door, the worker's and the command line's.
func run(ctx context.Context, args []string) int {
	switch {
	case hook.IsCall(args):
		return hook.Call(ctx, args)
	case worker.Is() && len(args) == 1 && args[0] == hook.WorkerCommand:
		return hook.Work(ctx)
	}
	return cli.Main(ctx, args)
}

// giveUp ends the program though its work has not ended.
func giveUp() {
	said := make(chan struct{})
	go func() {
		fmt.Fprintf(os.Stderr, "%s: error: stopped before everything was cleaned up; the next run does it\n", say.Program)
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(sayWait):
	}
	worker.Break(1)
}

// stopSignals delivers the signals that end the program. SIGPIPE must not: the
// task that reads our output may end before we have cleaned up. It is not ignored
// either, as programs that we start would inherit that.
func stopSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup has them ignored
			signal.Notify(signals, s)
		}
	}
	return signals
}
