package runfile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// isShellScript tells by the first line, which is "#! /bin/sh" in NVIDIA's files.
func isShellScript(start []byte) bool {
	first, _, found := bytes.Cut(start, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(first), "#!"))
	return found && bytes.HasPrefix(first, []byte("#!")) && len(words) == 1 && words[0] == "/bin/sh"
}

// magics are the beginnings of what people have in hand instead of a run file.
var magics = []struct{ magic, what string }{
	{"\x7fELF", "a program"},
	{"PK\x03\x04", "a zip archive"},
	{magicGzip, "a gzip file"},
	{magicBzip2, "a bzip2 file"},
	{magicXZ, "an xz file"},
	{magicZstd, "a zstd file"},
	{"!<arch>\n", "a Debian package"},
	{"\xed\xab\xee\xdb", "an RPM package"},
	{"#!", "a script"},
	{"{", "JSON"},
	{"<", "a web page or XML"},
}

// notRunFile says what the bytes look like instead.
func notRunFile(start []byte) error {
	text := bytes.TrimLeft(bytes.TrimPrefix(start, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(start) == 0 {
		return wrong("the file is empty")
	}
	if len(bytes.Trim(start, "\x00")) == 0 {
		return wrong("starts with %d zero bytes: not a run file", len(start))
	}
	lower := bytes.ToLower(text)
	if bytes.HasPrefix(lower, []byte("<!doctype html")) || bytes.HasPrefix(lower, []byte("<html")) {
		return hint.Wrap(wrong("starts with %s: a web page, not a run file", beginning(text)),
			"open the URL in a browser: it may be a login, licence or error page; set driver.urls to the run file itself")
	}
	if isShellScript(start) {
		return wrong("a shell script without the fields of an NVIDIA run file")
	}
	for _, m := range magics {
		if bytes.HasPrefix(text, []byte(m.magic)) {
			return wrong("starts with %s: %s, not a run file", beginning(text), m.what)
		}
	}
	return wrong("starts with %s: not a run file", beginning(start))
}

// beginning shows the first bytes, harmless to a terminal: a tag whole, text up
// to its line's end, else hex.
func beginning(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if i := bytes.IndexByte(line, '>'); i >= 0 && line[0] == '<' {
		line = line[:i+1]
	}
	line = bytes.TrimRight(line[:min(len(line), 40)], " \r")
	for _, c := range line {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", b[:min(len(b), 6)])
		}
	}
	return string(line)
}

// amount writes a number of bytes as people say it; 1 MB is a million bytes.
func amount(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%d kB", n/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}
