package main

import (
	"fmt"
	"slices"
)

// The names of the two that are compared.
const (
	hookName  = "this hook"
	shellName = "shell hook"
)

// kind says whose a row is.
type kind int

const (
	ours kind = iota + 1
	theirs
	floor // what nobody can leave out
)

// A row is one line of the table.
type row struct {
	name    string
	note    string
	kind    kind
	unit    unit
	samples []float64
}

// A section holds the rows of one part.
type section struct {
	key   string
	title string
	rows  []row
}

// find returns the median of a row, and false when there is none of that name.
func (s section) find(name string) (float64, bool) {
	for _, r := range s.rows {
		if r.name == name && len(r.samples) > 0 {
			return r.median(), true
		}
	}
	return 0, false
}

func (r row) median() float64 {
	sorted := slices.Sorted(slices.Values(r.samples))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// value is the median as a person reads it.
func (r row) value() string { return r.unit.format(r.median()) }

// spread is the least and the greatest sample; "" when there is only one.
func (r row) spread() string {
	if len(r.samples) < 2 {
		return ""
	}
	return r.unit.format(slices.Min(r.samples)) + " to " + r.unit.format(slices.Max(r.samples))
}

// unit is what samples are counted in.
type unit int

const (
	inSeconds unit = iota
	inBytes
	inCount
)

func (u unit) format(v float64) string {
	switch {
	case u == inCount:
		return fmt.Sprintf("%.0f", v)
	case u == inSeconds && v < 0.1:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case u == inSeconds && v < 1:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case u == inSeconds && v < 100:
		return fmt.Sprintf("%.2f s", v)
	case u == inSeconds:
		return fmt.Sprintf("%.0f s", v)
	case v == 0:
		return "0 bytes"
	case v < 1e6:
		return fmt.Sprintf("%.0f kB", v/1e3)
	case v < 100e6:
		return fmt.Sprintf("%.1f MB", v/1e6)
	}
	return fmt.Sprintf("%.0f MB", v/1e6)
}
