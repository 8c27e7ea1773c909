package config

import (
	"strconv"
	"strings"
)

// locate returns the line, from 1, of every key and section of a TOML file
// that parses; the TOML library does not tell. Names are joined by dots. Keys
// within an inline table or an array are not listed: they stand, with rare
// exceptions, in the line of the key that holds it.
func locate(data []byte) map[string]int {
	l := locator{text: string(data), line: 1}
	lines := make(map[string]int, 32)
	section := ""
	for l.next() {
		if l.text[l.at] == '[' {
			l.at++
			if l.at < len(l.text) && l.text[l.at] == '[' {
				l.at++
			}
			section = l.name(']')
			note(lines, section, l.line)
			for l.at < len(l.text) && l.text[l.at] == ']' {
				l.at++
			}
			continue
		}
		name := l.name('=')
		if section != "" {
			name = section + "." + name
		}
		note(lines, name, l.line)
		l.at++ // the =
		l.skipValue()
	}
	return lines
}

// note keeps the first line of a name, and of the sections above it where they have none of their own.
func note(lines map[string]int, name string, line int) {
	for name != "" {
		if _, ok := lines[name]; ok {
			return
		}
		lines[name] = line
		name = name[:max(strings.LastIndexByte(name, '.'), 0)]
	}
}

// lineOf finds the line of a name or, failing that, of what it stands in.
func lineOf(lines map[string]int, name string) int {
	for name != "" {
		if line, ok := lines[name]; ok {
			return line
		}
		name = name[:max(strings.LastIndexByte(name, '.'), 0)]
	}
	return 0
}

type locator struct {
	text string
	at   int // next byte
	line int
}

// next moves to the next byte that is neither white space nor in a comment.
func (l *locator) next() bool {
	for ; l.at < len(l.text); l.at++ {
		switch l.text[l.at] {
		case '\n':
			l.line++
		case ' ', '\t', '\r':
		case '#':
			l.comment()
			l.at--
		default:
			return true
		}
	}
	return false
}

// comment moves to the end of the line.
func (l *locator) comment() {
	for l.at < len(l.text) && l.text[l.at] != '\n' {
		l.at++
	}
}

// name reads a dotted key and stops at the byte end that follows it.
func (l *locator) name(end byte) string {
	var b strings.Builder
	for l.at < len(l.text) {
		switch c := l.text[l.at]; c {
		case end, '\n':
			return b.String()
		case ' ', '\t', '\r':
			l.at++
		case '"', '\'':
			start := l.at
			l.skipString()
			b.WriteString(unquote(l.text[start:l.at]))
		default:
			b.WriteByte(c)
			l.at++
		}
	}
	return b.String()
}

// unquote takes a quoted key out of its quotes. TOML's escapes are Go's, but for \e.
func unquote(s string) string {
	if s[0] == '"' {
		if plain, err := strconv.Unquote(s); err == nil {
			return plain
		}
	}
	return strings.Trim(s, s[:1])
}

// skipValue moves behind a value: to the end of its line outside of strings, brackets and braces.
func (l *locator) skipValue() {
	depth := 0
	for l.at < len(l.text) {
		switch l.text[l.at] {
		case '\n':
			if depth == 0 {
				return
			}
			l.line++
			l.at++
		case '#':
			l.comment()
		case '[', '{':
			depth++
			l.at++
		case ']', '}':
			depth--
			l.at++
		case '"', '\'':
			l.skipString()
		default:
			l.at++
		}
	}
}

// skipString moves behind a string of one of TOML's four kinds.
func (l *locator) skipString() {
	q := l.text[l.at : l.at+1]
	if triple := strings.Repeat(q, 3); strings.HasPrefix(l.text[l.at:], triple) {
		l.at += 3
		for l.at < len(l.text) && !strings.HasPrefix(l.text[l.at:], triple) {
			l.stringByte(q)
		}
		// Up to two quotes may stand right before the three that end it.
		for i := 0; i < 5 && l.at < len(l.text) && l.text[l.at] == q[0]; i++ {
			l.at++
		}
		return
	}
	l.at++
	for l.at < len(l.text) && l.text[l.at] != q[0] && l.text[l.at] != '\n' {
		l.stringByte(q)
	}
	if l.at < len(l.text) && l.text[l.at] == q[0] {
		l.at++
	}
}

// stringByte moves over one byte of a string, or over an escaped one with its backslash.
func (l *locator) stringByte(q string) {
	if l.text[l.at] == '\\' && q == `"` && l.at+1 < len(l.text) {
		l.at++
	}
	if l.text[l.at] == '\n' {
		l.line++
	}
	l.at++
}
