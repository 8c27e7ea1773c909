package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Mistake is one thing wrong in a configuration file.
type Mistake struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1; 0: the file as a whole
	Key     string `json:"key,omitempty"`
	What    string `json:"what"`
	Allowed string `json:"allowed,omitempty"`
}

func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d", m.Line)
	}
	b.WriteString(": ")
	if m.Key != "" {
		b.WriteString(oneLine(m.Key, 200) + ": ")
	}
	b.WriteString(oneLine(m.What, 2000))
	if m.Allowed != "" {
		b.WriteString("; allowed: " + m.Allowed)
	}
	return b.String()
}

// oneLine makes harmless what a name in a file may hold, and keeps it short.
func oneLine(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strings.Trim(strconv.Quote(s), `"`)
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// Mistakes is the error of this package: all that is wrong, one a line, sorted by file and line.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].String()
	}
	return strings.Join(lines, "\n")
}

// plain returns the mistakes as an error, nil when there are none.
func (m Mistakes) plain() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// CheckCommand is what checks a configuration again: that of the file named, or
// the one that holds when file is "".
func CheckCommand(file string) string {
	const check = "pve-nvidia-hook config check"
	if file == "" {
		return check
	}
	return check + " --config " + oneLine(file, 200)
}

// err returns the mistakes sorted, each once, with a hint; nil when there are none.
// file is the one that the user named.
func (m Mistakes) err(file string) error {
	if len(m) == 0 {
		return nil
	}
	slices.SortStableFunc(m, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key), cmp.Compare(a.What, b.What))
	})
	return hint.Wrap(slices.Compact(m), "correct what is named, then see: "+CheckCommand(file))
}

// add appends what another call returned as its error.
func (m *Mistakes) add(err error) {
	var more Mistakes
	if errors.As(err, &more) {
		*m = append(*m, more...)
	}
}

// quote shows a value in a message: short, on one line, without credentials.
func quote(s string) string {
	if strings.ContainsAny(s, "@?") {
		s = RedactURL(s)
	}
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return strconv.Quote(s)
}
