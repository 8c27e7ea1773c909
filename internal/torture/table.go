package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// row is one case: how often it was tried and what went wrong.
type row struct {
	part, name string
	tries      int
	failures   []string
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

func (t *table) failures() int {
	n := 0
	for _, r := range t.rows {
		n += len(r.failures)
	}
	return n
}

func (t *table) text(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "part\tcase\ttries\tfailures")
	tries := 0
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", r.part, r.name, r.tries, len(r.failures))
		tries += r.tries
	}
	fmt.Fprintf(w, "all\t\t%d\t%d\n", tries, t.failures())
	w.Flush()
	for _, r := range t.rows {
		for _, f := range r.failures {
			fmt.Fprintf(out, "\nfailed: %s, %s: %s\n", r.part, r.name, f)
		}
	}
}

func (t *table) markdown(out io.Writer) {
	fmt.Fprintln(out, "| part | case | tries | failures |\n|---|---|--:|--:|")
	tries := 0
	for _, r := range t.rows {
		fmt.Fprintf(out, "| %s | %s | %d | %d |\n", r.part, r.name, r.tries, len(r.failures))
		tries += r.tries
	}
	fmt.Fprintf(out, "| **all** | | **%d** | **%d** |\n", tries, t.failures())
}
