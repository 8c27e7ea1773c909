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
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// How long cleaning up may take after a signal: Proxmox sends SIGTERM when a task
// is stopped and SIGKILL five seconds later. Who watches over the worker waits a
// little longer than that one.
const (
	grace      = 1900 * time.Millisecond
	graceWatch = 2800 * time.Millisecond
	listen     = 100 * time.Millisecond // who does not read the last line in that time does without
)

func main() {
	syscall.Umask(0o022)
	wait := graceWatch
	if worker.Is() {
		wait = grace
	}
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	// The task that reads our output may end before we have cleaned up. Not
	// ignored: that would be inherited by all that is started, in the container
	// and as a chained hookscript.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup means it
			signal.Notify(signals, s)
		}
	}
	go func() {
		<-signals
		cancel()
		time.Sleep(wait)
		said := make(chan struct{})
		go func() {
			fmt.Fprintf(os.Stderr, "%s: error: stopped before all was cleaned up; the next run does it\n", say.Program)
			close(said)
		}()
		select {
		case <-said:
		case <-time.After(listen): // nobody reads it
		}
		lock.ReleaseAll() // what hangs may hold some
		worker.Break(1)
	}()
	code := run(ctx, os.Args[1:])
	lock.ReleaseAll()
	worker.Exit(code)
}

// run is the program: Proxmox's door and the command line's. What works on
// containers does so in a worker.
func run(ctx context.Context, args []string) int {
	if hook.IsCall(args) {
		return hook.Call(ctx, args, worker.Here())
	}
	return cli.Main(ctx, args, worker.Here())
}
