package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one case: how often it was tried and what went wrong.
type row struct {
	part, name string
	tries      int
	inputs     bool // tries are inputs of a fuzz test
	failures   []string
}

// amount is how often a case was tried.
func (r *row) amount() string {
	switch {
	case !r.inputs:
		return fmt.Sprint(r.tries)
	case r.tries < 1e6:
		return fmt.Sprint(r.tries) + " inputs"
	}
	return fmt.Sprintf("%.1f million inputs", float64(r.tries)/1e6)
}

// table is the outcome of all cases, in the order in which they came.
type table struct{ rows []*row }

// at returns the row of a case.
func (t *table) at(part, name string) *row {
	for _, r := range t.rows {
		if r.part == part && r.name == name {
			return r
		}
	}
	r := &row{part: part, name: name}
	t.rows = append(t.rows, r)
	return r
}

// drop forgets a part that did not come to its end.
func (t *table) drop(part string) {
	t.rows = slices.DeleteFunc(t.rows, func(r *row) bool { return r.part == part })
}

func (t *table) failures() int {
	n := 0
	for _, r := range t.rows {
		n += len(r.failures)
	}
	return n
}

// tries leaves out inputs: beside millions of them nothing else would be seen.
func (t *table) tries() int {
	n := 0
	for _, r := range t.rows {
		if !r.inputs {
			n += r.tries
		}
	}
	return n
}

func (t *table) text(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "part\tcase\ttries\tfailures")
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", r.part, r.name, r.amount(), len(r.failures))
	}
	fmt.Fprintf(w, "all\t\t%d\t%d\n", t.tries(), t.failures())
	w.Flush()
	for _, r := range t.rows {
		for _, f := range r.failures {
			fmt.Fprintf(out, "\nfailed: %s, %s: %s\n", r.part, r.name, f)
		}
	}
}

// markdown writes the table for docs/, and lines about it. The fuzz tests
// share a row.
func (t *table) markdown(out io.Writer, about []string) {
	fmt.Fprintln(out, "| part | case | tries | failures |\n|---|---|--:|--:|")
	line := func(r *row) {
		fmt.Fprintf(out, "| %s | %s | %s | %d |\n", r.part, r.name, r.amount(), len(r.failures))
	}
	fuzz, tests := &row{inputs: true}, 0
	for _, r := range t.rows {
		if !r.inputs {
			line(r)
			continue
		}
		tests++
		fuzz.part, fuzz.name = r.part, fmt.Sprintf("%d fuzz tests", tests)
		fuzz.tries += r.tries
		fuzz.failures = append(fuzz.failures, r.failures...)
	}
	if tests > 0 {
		line(fuzz)
	}
	fmt.Fprintf(out, "| **all** | | **%d** | **%d** |\n\n%s\n", t.tries(), t.failures(), strings.Join(about, "\\\n"))
}
