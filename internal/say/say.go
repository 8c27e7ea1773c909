// Package say owns the words said to a person: how a line looks, what an error
// line and its hint look like, and how text that a container wrote is made
// harmless before it reaches a terminal or a task log.
//
// The rules: one line a fact, lower case, no full stop; every line starts with
// the program's name and, where there is one, the VMID; an error is followed by
// its hint; no colour unless the output is a terminal.
package say

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Program is the name that starts every line.
const Program = "pve-nvidia-hook"

// lineLimit is how many bytes of a message are said.
const lineLimit = 2000

// Log is a logger for one container, or for the program when VMID is 0.
type Log struct{ *logrus.Entry }

// New returns a logger that writes to w. format is "text" or "json", level one
// of logrus's names ("debug", "info", "warning", "error").
func New(w io.Writer, format, level string) (Log, error) {
	l := logrus.New()
	l.SetOutput(w)
	switch format {
	case "", "text":
		l.SetFormatter(lines{})
	case "json":
		l.SetFormatter(clean{&logrus.JSONFormatter{}})
	default:
		return Log{}, fmt.Errorf("unknown log format %q; allowed: text, json", format)
	}
	if level == "" {
		level = "info"
	}
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return Log{}, fmt.Errorf("unknown log level %q; allowed: debug, info, warning, error", level)
	}
	l.SetLevel(parsed)
	return Log{logrus.NewEntry(l)}, nil
}

// For returns a logger whose lines name the container.
func (l Log) For(vmid int) Log { return Log{l.WithField("vmid", vmid)} }

// With returns a logger that adds a field to its JSON and journal entries; one
// that would be empty is left out.
func (l Log) With(key string, value any) Log {
	if value == "" {
		return l
	}
	return Log{l.WithField(key, value)}
}

// Fail logs an error and, on a line of its own, its hint. Joined errors get a
// line each.
func (l Log) Fail(err error) {
	for _, line := range strings.Split(err.Error(), "\n") {
		if strings.TrimSpace(line) != "" {
			l.Error(line)
		}
	}
	if h := hint.Of(err); h != "" {
		if vmid, ok := l.Data["vmid"]; ok {
			// A command that can be pasted as it stands.
			h = strings.ReplaceAll(h, "VMID", fmt.Sprint(vmid))
		}
		l.WithField("hint", true).Error(h)
	}
}

// clean makes messages harmless before they are written: JSON escapes only some
// of what changes a terminal.
type clean struct{ logrus.Formatter }

// Format implements logrus.Formatter.
func (c clean) Format(e *logrus.Entry) ([]byte, error) {
	copied := *e
	copied.Message = Clean(e.Message, lineLimit)
	return c.Formatter.Format(&copied)
}

// lines writes "pve-nvidia-hook 101: message".
type lines struct{}

// Format implements logrus.Formatter.
func (lines) Format(e *logrus.Entry) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(Program)
	if v, ok := e.Data["vmid"]; ok {
		fmt.Fprintf(&b, " %v", v)
	}
	b.WriteString(": ")
	switch {
	case e.Data["hint"] == true:
		b.WriteString("hint: ")
	case e.Level <= logrus.ErrorLevel:
		b.WriteString("error: ")
	case e.Level == logrus.WarnLevel:
		b.WriteString("warning: ")
	case e.Level >= logrus.DebugLevel:
		b.WriteString("debug: ")
	}
	b.WriteString(Clean(e.Message, lineLimit))
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// Clean returns s on one line, without control characters and other runes that
// can change what a terminal shows, cut after about limit bytes and then ended
// by "...".
func Clean(s string, limit int) string {
	var b strings.Builder
	for i, size := 0, 0; i < len(s); i += size {
		if b.Len() >= limit {
			b.WriteString("...")
			break
		}
		var r rune
		r, size = utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t':
			b.WriteByte(' ')
		case r == '\n' || r == '\r':
			b.WriteByte(' ')
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// Count is "1 file" or "2 files", "1 process" or "2 processes".
func Count(n int, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "s"):
		what += "es"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Bytes returns a size for people: "394 MB", "2.5 MB", decimal units as NVIDIA
// and disk makers use them, rounded down.
func Bytes(n int64) string {
	const k = 1000
	switch {
	case n < k:
		return fmt.Sprintf("%d B", n)
	case n < k*k:
		return fmt.Sprintf("%d kB", n/k)
	case n < 10*k*k:
		return fmt.Sprintf("%d.%d MB", n/(k*k), n/(k*k/10)%10)
	case n < k*k*k:
		return fmt.Sprintf("%d MB", n/(k*k))
	default:
		return fmt.Sprintf("%.1f GB", float64(n)/(k*k*k))
	}
}

// JSON writes v to w, indented, with a final newline.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Lines returns a writer that passes on each line of what is written, cleaned.
// Each write has whole lines, as Fprintln and a Fprintf that ends in \n have.
func Lines(w io.Writer) io.Writer { return cleaner{w} }

type cleaner struct{ io.Writer }

// Write implements io.Writer.
func (c cleaner) Write(p []byte) (int, error) {
	var b strings.Builder
	for line := range strings.Lines(string(p)) {
		text, ended := strings.CutSuffix(line, "\n")
		b.WriteString(Clean(text, lineLimit))
		if ended {
			b.WriteByte('\n')
		}
	}
	if _, err := io.WriteString(c.Writer, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
