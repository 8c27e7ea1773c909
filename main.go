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
)

// grace is how long cleaning up may take after a signal: Proxmox sends SIGTERM
// when a task is stopped and SIGKILL five seconds later.
const grace = 1900 * time.Millisecond

func main() {
	syscall.Umask(0o022)
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	// SIGPIPE: the task that reads our output may end before we have cleaned
	// up. Not ignored: that would be inherited by all that is started, in the
	// container and as a chained hookscript.
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGPIPE)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup means it
			signal.Notify(signals, s)
		}
	}
	go func() {
		for <-signals == syscall.SIGPIPE {
		}
		cancel()
		time.Sleep(grace)
		fmt.Fprintf(os.Stderr, "%s: error: stopped before all was cleaned up; the next run does it\n", say.Program)
		os.Exit(1)
	}()
	code := run(ctx, os.Args[1:])
	os.Exit(code)
}

// run is the program: Proxmox's door and the command line's.
func run(ctx context.Context, args []string) int {
	if hook.IsCall(args) {
		return hook.Call(ctx, args)
	}
	return cli.Main(ctx, args)
}
