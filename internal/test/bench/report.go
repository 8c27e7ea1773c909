package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/machine"
)

// report is the outcome of a bench.
type report struct {
	at       time.Time
	machine  machine.Machine
	sample   string
	options  options
	sections []section
	targets  []target
}

func (r report) section(key string) section {
	for _, s := range r.sections {
		if s.key == key {
			return s
		}
	}
	return section{}
}

// about says where, when and with what was measured.
func (r report) about() []string {
	return []string{
		"Machine: " + r.machine.String(),
		"Date: " + r.at.UTC().Format("2006-01-02") + ". Command: `" + r.options.command() + "`",
		"Unprivileged containers of Debian 12; " + r.sample + ". Medians, and the least and the greatest.",
		"Contenders take turns, each with a fresh container and a synced disk; no cache is dropped. The server on loopback uses the same cores.",
	}
}

// command is the command line that gives this report again.
func (o options) command() string {
	text := "go run ./internal/test/bench"
	basis := full()
	if o.quick {
		text, basis = text+" -quick", small()
	}
	add := func(name string, value, usual any) {
		if value != usual {
			text += fmt.Sprintf(" -%s %v", name, value)
		}
	}
	add("size", o.size, basis.size)
	add("skips", o.skips, basis.skips)
	add("runs", o.runs, basis.runs)
	add("bunches", o.bunches, basis.bunches)
	add("together", o.together, basis.together)
	add("crowd", o.crowd, basis.crowd)
	add("only", strings.Join(o.only, ","), "")
	if o.program != "" {
		text += " -program " + filepath.Base(o.program)
	}
	return text
}

// text is the report for a terminal.
func (r report) text() string {
	var b strings.Builder
	for _, line := range r.about() {
		b.WriteString(line + "\n")
	}
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n%s\n", s.title)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range s.rows {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", row.name, row.value(), row.spread(), runs(row), row.note)
		}
		w.Flush()
	}
	if len(r.targets) > 0 {
		b.WriteString("\nTargets\n")
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, t := range r.targets {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", t.promise, t.limit, t.found, t.verdict())
		}
		w.Flush()
	}
	return trimmed(b.String())
}

func runs(r row) string {
	if len(r.samples) < 2 {
		return ""
	}
	return fmt.Sprintf("%d runs", len(r.samples))
}

// markdown is the report for docs/.
func (r report) markdown() string {
	var b strings.Builder
	b.WriteString("| | median | least to greatest | runs |\n|---|--:|--:|--:|\n")
	for _, s := range r.sections {
		fmt.Fprintf(&b, "| **%s** | | | |\n", s.title)
		for _, row := range s.rows {
			name := row.name
			if row.note != "" {
				name += " (" + row.note + ")"
			}
			n := ""
			if len(row.samples) > 1 {
				n = fmt.Sprint(len(row.samples))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, row.value(), row.spread(), n)
		}
	}
	if len(r.targets) > 0 {
		b.WriteString("\n| target | limit | measured | |\n|---|--:|--:|---|\n")
		for _, t := range r.targets {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.promise, t.limit, t.found, t.verdict())
		}
	}
	b.WriteString("\n")
	for _, line := range r.about() {
		b.WriteString(line + "\\\n")
	}
	return strings.TrimSuffix(b.String(), "\\\n") + "\n"
}

// trimmed drops the spaces that tabwriter leaves at the ends of lines.
func trimmed(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
