// Command bench measures the hook on real containers, side by side with what
// else could do its work: the plain shell hook in contrib/shell-hook, and the
// parts that nobody can leave out (lxc-info, the download, NVIDIA's installer).
//
//	go run ./internal/test/bench                     everything; some minutes, 30 GB of disk
//	go run ./internal/test/bench -only skip,warm     two parts
//	go run ./internal/test/bench -quick              a smoke test: small file, few runs
//	go run ./internal/test/bench -markdown T -svg P  the table and the picture for docs/
//
// The containers are unprivileged Debian 12 on an overlay, or in a folder of the
// disk. Contenders take turns within a round, each round in another order, and each
// starts with a fresh container and a synced disk. No cache is dropped: the run file
// lies in memory for all alike, as far as the machine has the memory. It removes all
// that it made, also on failure and on Ctrl-C. It needs root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// options are the flags.
type options struct {
	only     []string // keys of parts; empty: all
	size     int64    // of the run file, bytes; 0: as small as it gets
	skips    int      // runs of what takes milliseconds
	runs     int      // of one installation
	bunches  int      // runs of many installations at once
	together int      // how many at once
	crowd    int      // how many at once, many more than the node has cores
	nodes    []int    // containers of the simulated nodes
	quick    bool
	program  string // "": build it
	markdown string // file to write
	svg      string
}

func full() options {
	return options{size: 400e6, skips: 30, runs: 5, bunches: 3, together: 8, crowd: 60, nodes: []int{50, 500}}
}

func small() options {
	return options{skips: 3, runs: 1, bunches: 1, together: 2, crowd: 4, nodes: []int{2, 10}, quick: true}
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(os.Stderr, "bench: error:", err)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		if h := hint.Of(err); h != "" {
			fmt.Fprintln(os.Stderr, "bench: hint:", h)
		}
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := full()
	if slices.Contains(args, "-quick") || slices.Contains(args, "--quick") {
		o = small()
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&o.quick, "quick", false, "a smoke test: small file, few runs, no package")
	f.Int64Var(&o.size, "size", o.size, "size of the run file in bytes; 0: as small as it gets")
	f.IntVar(&o.skips, "skips", o.skips, "runs of what takes milliseconds")
	f.IntVar(&o.runs, "runs", o.runs, "runs of one installation")
	f.IntVar(&o.bunches, "bunches", o.bunches, "runs of many installations at once")
	f.IntVar(&o.together, "together", o.together, "installations at once")
	f.IntVar(&o.crowd, "crowd", o.crowd, "installations at once, many more than the node has cores")
	f.StringVar(&o.program, "program", "", "a built pve-nvidia-hook (default: build it)")
	f.StringVar(&o.markdown, "markdown", "", "write the table to this file")
	f.StringVar(&o.svg, "svg", "", "write the picture to this file")
	only := f.String("only", "", "parts to measure, of "+strings.Join(keys(), ","))
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if min(o.skips, o.runs, o.bunches, o.together, o.crowd) < 1 || o.size < 0 {
		return o, fmt.Errorf("counts start at 1 and sizes at 0")
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, k := range o.only {
		if !slices.Contains(keys(), k) {
			return o, fmt.Errorf("unknown part %q; known are %s", k, strings.Join(keys(), ", "))
		}
	}
	return o, nil
}
