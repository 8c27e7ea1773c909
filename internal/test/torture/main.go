// Command torture tries hard to break the hook: it kills it at random moments on
// real containers, pulls the container away from under it, starts many at once,
// runs the tests of everything hostile in their long form, and looks for data
// races. At the end stands a table of cases, tries and failures.
//
//	go run ./internal/test/torture                          everything; about an hour
//	go run ./internal/test/torture -only crashes -kills 50  one part
//	go run ./internal/test/torture -seed 7                  the same random moments again
//	go run ./internal/test/torture -markdown T              the table for docs/
//
// It needs root and LXC. What it makes is removed at the end, also on Ctrl-C.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/machine"
)

type options struct {
	kills    int
	only     []string // names of parts; empty: all
	seed     uint64
	count    int // how often the Go tests of a part are run
	fuzz     time.Duration
	markdown string
}

// part is one of the promises, with what tries to break it.
type part struct {
	name string
	run  func(context.Context, *torture) error
}

var parts = []part{
	{"crashes", crashes},
	{"downloads", goTests("downloads")},
	{"disks", goTests("disks")},
	{"life", life},
	{"crowd", crowd},
	{"permissions", goTests("permissions")},
	{"parsers", parsers},
	{"hostile", goTests("hostile")}, // by far the longest
	{"race", race},
}

// torture is one call of the program.
type torture struct {
	options
	out   io.Writer
	table table
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(os.Stderr, "torture: error:", err)
		}
		os.Exit(2)
	}
	log.SetOutput(io.Discard) // the mirror complains of clients that were killed
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture: error:", err)
		if h := hint.Of(err); h != "" {
			fmt.Fprintln(os.Stderr, "torture: hint:", h)
		}
		os.Exit(1)
	}
}

func defaults() options { return options{kills: 300, count: 1, fuzz: 10 * time.Second} }

func parse(args []string) (options, error) {
	o := defaults()
	var only string
	f := flag.NewFlagSet("torture", flag.ContinueOnError)
	f.IntVar(&o.kills, "kills", o.kills, "how many `times` the hook is killed")
	f.StringVar(&only, "only", "", "`parts` to run, of: "+strings.Join(names(), ", "))
	f.Uint64Var(&o.seed, "seed", 0, "of the random moments (default: by the clock)")
	f.IntVar(&o.count, "count", o.count, "how `often` the Go tests of a part are run")
	f.DurationVar(&o.fuzz, "fuzztime", o.fuzz, "how long each parser is fuzzed")
	f.StringVar(&o.markdown, "markdown", "", "`file` that the table is written to as well")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, name := range o.only {
		if !strings.Contains(" "+strings.Join(names(), " ")+" ", " "+name+" ") {
			return o, fmt.Errorf("there is no part %q, only %s", name, strings.Join(names(), ", "))
		}
	}
	return o, nil
}

// command is the command line that tries the same again.
func (o options) command() string {
	text := "go run ./internal/test/torture"
	usual := defaults()
	add := func(name string, value, usual any) {
		if value != usual {
			text += fmt.Sprintf(" -%s %v", name, value)
		}
	}
	add("only", strings.Join(o.only, ","), "")
	add("kills", o.kills, usual.kills)
	add("count", o.count, usual.count)
	add("fuzztime", o.fuzz, usual.fuzz)
	add("seed", o.seed, 0)
	return text
}

func names() []string {
	var all []string
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

func run(ctx context.Context, o options, out io.Writer) error {
	t := &torture{options: o, out: out}
	t.say("seed %d", o.seed)
	at, on := time.Now(), machine.Look()
	stopped := "" // the part in which a signal came: only what was tried before counts
	for _, p := range parts {
		if len(o.only) > 0 && !contains(o.only, p.name) {
			continue
		}
		began := time.Now()
		t.say("%s", p.name)
		if err := p.run(ctx, t); ctx.Err() != nil {
			stopped = p.name
			t.table.drop(stopped)
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		t.say("%s took %v", p.name, time.Since(began).Round(time.Second))
	}
	fmt.Fprintln(out)
	t.table.text(out)
	if o.markdown != "" {
		var b strings.Builder
		t.table.markdown(&b, []string{
			"Machine: " + on.String(),
			fmt.Sprintf("Date: %s. Command: `%s`, which took %v", at.UTC().Format("2006-01-02"), o.command(), time.Since(at).Round(time.Second)),
			"Containers of Debian 12, privileged and unprivileged, and sample run files. A Go test and each of its subtests is a try.",
		})
		if stopped != "" {
			fmt.Fprintf(&b, "It was stopped in the part %s.\n", stopped)
		}
		if err := os.WriteFile(o.markdown, []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	if n := t.table.failures(); n > 0 {
		return fmt.Errorf("%d failures (seed %d)", n, o.seed)
	}
	if stopped != "" {
		return fmt.Errorf("stopped in the part %s", stopped)
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

func (t *torture) say(format string, args ...any) {
	fmt.Fprintf(t.out, "torture: "+format+"\n", args...)
}
