package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// target is one fuzz test.
type target struct{ pkg, name string }

// targets asks every package for its fuzz tests, so that a new one is never forgotten.
func targets(ctx context.Context) ([]target, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`, "github.com/thinkheads-ai/pve-nvidia-hook/...")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", explain(err))
	}
	var all []target
	for pkg := range strings.FieldsSeq(string(out)) {
		// The names are read from the sources: go test -list would run each
		// package's TestMain, some of which build the program or a container.
		dir, err := exec.CommandContext(ctx, "go", "list", "-f", `{{.Dir}}{{range .TestGoFiles}} {{.}}{{end}}{{range .XTestGoFiles}} {{.}}{{end}}`, pkg).Output()
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", pkg, explain(err))
		}
		files := strings.Fields(string(dir))
		names, err := fuzzIn(files[0], files[1:])
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, target{pkg, name})
		}
	}
	return all, nil
}

func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// parsers runs each fuzz test for a while. What it finds is kept by go test
// below testdata/fuzz of the package, as a seed to be committed. Go would spend up
// to a minute on making each new input smaller, which does not come to an end where
// goroutines take turns by chance: without a limit FuzzUnpack tried a dozen in all.
func parsers(ctx context.Context, t *torture) error {
	all, err := targets(ctx)
	if err != nil {
		return err
	}
	for _, one := range all {
		began := time.Now()
		// To shorten one input that is but interesting may take a minute else.
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+one.name+"$", "-fuzztime", t.fuzz.String(), "-fuzzminimizetime", "1s", one.pkg)
		out, err := cmd.CombinedOutput()
		r := t.table.at("parsers", strings.TrimPrefix(one.pkg, "github.com/thinkheads-ai/pve-nvidia-hook/")+" "+one.name)
		r.tries, r.inputs = executions(string(out)), true
		if err != nil {
			text := string(out)
			r.failures = append(r.failures, text[max(0, len(text)-3000):])
		} else if r.tries == 0 {
			r.failures = append(r.failures, fmt.Sprintf("no input was tried in %v; a longer -fuzztime may help", t.fuzz))
		}
		t.say("%s %s: %d inputs in %v, %d failures", one.pkg, one.name, r.tries, time.Since(began).Round(time.Second), len(r.failures))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// executions reads how many inputs were tried from the last line of progress:
// "fuzz: elapsed: 3s, execs: 325017 (108336/sec), new interesting: 11 (total: 202)".
func executions(text string) int {
	n := 0
	for _, line := range strings.Split(text, "\n") {
		if _, rest, ok := strings.Cut(line, ", execs: "); ok {
			_, _ = fmt.Sscan(rest, &n) // a line of another form counts nothing
		}
	}
	return n
}
