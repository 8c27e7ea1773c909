package runfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const (
	// maxHeader bounds script, help text and embedded decompressor. NVIDIA's
	// genuine headers are some 160 kB.
	maxHeader = 4 << 20
	// maxLine bounds one line of the text part; longer ones are no field.
	maxLine = 8 << 10
	// fieldLines is where the fields must stand: they open the script in
	// every layout since 2006.
	fieldLines = 256
	// headerBuffer must hold more than maxLine.
	headerBuffer = 64 << 10

	labelPrefix = "NVIDIA Accelerated Graphics Driver for Linux-"
)

// ReadHeader reads the header of a run file and leaves r at the payload's first
// byte, or somewhere behind it. At most 4 MiB are read. What is no driver run
// file for x86_64 or aarch64 gives ErrContent and says what it looks like.
func ReadHeader(r io.Reader) (Header, error) {
	h, err := readHeader(bufio.NewReaderSize(io.LimitReader(r, maxHeader), headerBuffer))
	if err != nil {
		return Header{}, fmt.Errorf("read run file header: %w", err)
	}
	return h, nil
}

// readHeader leaves br exactly at the payload.
func readHeader(br *bufio.Reader) (Header, error) {
	start, err := firstBytes(br)
	if err != nil {
		return Header{}, err
	}
	if !isShellScript(start) {
		return Header{}, notRunFile(start)
	}
	s := scan{fields: map[string]string{}, options: map[string]bool{}}
	for line := 1; ; line++ {
		if s.skip == 0 && line > fieldLines {
			return Header{}, notRunFile(start)
		}
		if s.skip != 0 && line == s.skip {
			break
		}
		if err := s.line(br, line); err != nil {
			if !errors.Is(err, io.EOF) {
				return Header{}, err
			}
			if s.skip == 0 {
				return Header{}, notRunFile(start)
			}
			if s.offset >= maxHeader {
				return Header{}, wrong("header of more than %d bytes: line %d, where its payload should start, is not reached", maxHeader, s.skip)
			}
			return Header{}, wrong("file ends after %s, before its payload at line %d", amount(s.offset), s.skip)
		}
		if s.offset > maxHeader {
			return Header{}, wrong("header of more than %d bytes: line %d, where its payload should start, is not reached", maxHeader, s.skip)
		}
	}
	return s.header()
}

// firstBytes returns a copy of the first line and what came with it, at most 512
// bytes. It does not wait for more than the line: a stream may stall behind it.
func firstBytes(br *bufio.Reader) ([]byte, error) {
	for n := 1; ; n = br.Buffered() + 1 {
		_, err := br.Peek(n)
		start, _ := br.Peek(min(br.Buffered(), 512))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err != nil || len(start) == 512 || bytes.IndexByte(start, '\n') >= 0 {
			return bytes.Clone(start), nil
		}
	}
}

// scan collects what the lines before the payload say.
type scan struct {
	fields  map[string]string
	options map[string]bool
	offset  int64
	skip    int // line of the payload
	textEnd int // line where the text ends: the payload, or the embedded decompressor before it
}

// line takes one line; a line too long to be text is only counted.
func (s *scan) line(br *bufio.Reader, n int) error {
	part, err := br.ReadSlice('\n')
	s.offset += int64(len(part))
	whole := err == nil
	if whole && len(part) <= maxLine && (s.textEnd == 0 || n < s.textEnd) {
		if err := s.text(string(part[:len(part)-1]), n); err != nil {
			return err
		}
	}
	for errors.Is(err, bufio.ErrBufferFull) && s.offset <= maxHeader {
		part, err = br.ReadSlice('\n')
		s.offset += int64(len(part))
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil // over the limit, which the caller checks
	}
	return err
}

var (
	fieldLine = lazy.Regexp(`^([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)
	// number fits a line number or a CRC.
	number = lazy.Regexp(`^[0-9]{1,10}$`)
)

// wanted names the fields that are read; their order and place differ between layouts.
var wanted = map[string]bool{
	"skip": true, "skip_decompress": true, "MD5": true, "label": true,
	"version_string": true, "major_version": true, "minor_version": true, "patch_version": true,
	"script": true, "targetdir": true, "TARGET_ARCH": true,
}

func (s *scan) text(line string, n int) error {
	for _, o := range optionsIn(line) {
		s.options[o] = true
	}
	m := fieldLine().FindStringSubmatch(line)
	if m == nil || n > fieldLines || !wanted[m[1]] {
		return nil
	}
	name := m[1]
	if _, seen := s.fields[name]; seen {
		return nil // the script assigns some again later; the first is the packager's
	}
	value, ok := unquote(m[2])
	if !ok {
		return wrong("header line %d: %.80q is not a plain value", n, line)
	}
	s.fields[name] = value
	if name != "skip" && name != "skip_decompress" {
		return nil
	}
	at, err := strconv.Atoi(value)
	if err != nil || !number().MatchString(value) || at <= n || at > maxHeader {
		return wrong("header line %d: %s=%.40q is no line behind it", n, name, value)
	}
	if name == "skip" {
		s.skip = at
	}
	if s.textEnd == 0 || at < s.textEnd {
		s.textEnd = at
	}
	return nil
}

// unquote returns the value of a shell assignment that needs no shell to
// understand: quoted or not, without expansions.
func unquote(s string) (string, bool) {
	if s != "" && (s[0] == '"' || s[0] == '\'') {
		end := strings.IndexByte(s[1:], s[0])
		if end < 0 {
			return "", false
		}
		s = s[1 : 1+end]
	} else if end := strings.IndexAny(s, " \t\r;#"); end >= 0 {
		s = s[:end]
	}
	return s, !strings.ContainsAny(s, "$`\\") && printable(s)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

var (
	md5Form     = lazy.Regexp(`^[0-9a-f]{32}$`)
	versionForm = lazy.Regexp(`^([0-9][0-9.]*)(-[A-Za-z][A-Za-z0-9-]*)?$`) // -grid, -no-compat32
)

// header makes sense of the fields.
func (s *scan) header() (Header, error) {
	h := Header{
		Label:     s.fields["label"],
		TargetDir: s.fields["targetdir"],
		Script:    s.fields["script"],
		MD5:       strings.ToLower(s.fields["MD5"]),
		Skip:      s.skip,
		Payload:   s.offset,
		Options:   installerOptions(s.options),
	}
	rest, ok := strings.CutPrefix(h.Label, labelPrefix)
	if !ok {
		return Header{}, hint.Wrap(wrong("its label %.80q is not that of an NVIDIA driver", h.Label),
			"take the driver's own run file (NVIDIA-Linux-x86_64-VERSION.run), not that of CUDA or another product")
	}
	labelArch, labelVersion, _ := strings.Cut(rest, " ")
	h.Arch = s.fields["TARGET_ARCH"]
	if h.Arch == "" {
		h.Arch = labelArch
	}
	if h.Arch != labelArch {
		return Header{}, wrong("header contradicts itself: label for %.40q, TARGET_ARCH %.40q", labelArch, h.Arch)
	}
	if h.Arch != "x86_64" && h.Arch != "aarch64" {
		return Header{}, wrong("the file is for %.40q: only x86_64 and aarch64 are known here", h.Arch)
	}
	if err := h.setVersion(s.fields, labelVersion); err != nil {
		return Header{}, err
	}
	if h.Script == "" {
		return Header{}, wrong("header names no script to run")
	}
	if !md5Form().MatchString(h.MD5) {
		return Header{}, wrong("header has no MD5 of its payload (MD5=%.40q)", h.MD5)
	}
	return h, nil
}

// setVersion takes version_string, or where a layout has none the label, or the three parts.
func (h *Header) setVersion(fields map[string]string, label string) error {
	plain := func(s string) string {
		if m := versionForm().FindStringSubmatch(s); m != nil {
			return m[1]
		}
		return s
	}
	said, inLabel := plain(fields["version_string"]), plain(strings.TrimSpace(label))
	if said != "" && inLabel != "" && said != inLabel {
		return wrong("header contradicts itself: label of %.40q, version_string %.40q", inLabel, said)
	}
	if said == "" {
		said = inLabel
	}
	if said == "" {
		said = fields["major_version"] + "." + fields["minor_version"]
		if p := fields["patch_version"]; p != "" {
			said += "." + p
		}
	}
	v, err := version.Parse(said)
	if err != nil {
		return wrong("header's version: %w", err)
	}
	h.Version = v
	return nil
}
