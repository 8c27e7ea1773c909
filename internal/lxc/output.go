package lxc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	lineLimit   = 500     // bytes of a line given to OnLine
	pipeMost    = 1 << 20 // bytes a pipe can hold (fs.pipe-max-size)
	pipeWait    = 50 * time.Millisecond
	linesBurst  = 2000 // lines that OnLine gets at once,
	linesSecond = 500  // and then in a second
)

// tail keeps the last bytes of what is written to it.
type tail struct {
	keep int
	buf  []byte
}

func (t *tail) write(p []byte) {
	if len(p) > t.keep {
		p = p[len(p)-t.keep:]
	}
	if len(t.buf)+len(p) > 2*t.keep {
		t.buf = t.buf[:copy(t.buf, t.buf[max(0, len(t.buf)-t.keep):])]
	}
	t.buf = append(t.buf, p...)
}

func (t *tail) bytes() []byte { return t.buf[max(0, len(t.buf)-t.keep):] }

// reporter gives lines to OnLine, one at a time and not more than a person or
// a task log can take.
type reporter struct {
	mu     sync.Mutex
	onLine func(string)
	budget float64
	last   time.Time
	left   int
}

func (r *reporter) line(line []byte) {
	if r.onLine == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.budget = min(linesBurst, r.budget+now.Sub(r.last).Seconds()*linesSecond)
	r.last = now
	if r.budget < 1 {
		r.left++
		return
	}
	r.budget--
	r.flush()
	r.onLine(clean(string(line)))
}

func (r *reporter) flush() {
	if r.left > 0 {
		r.onLine(fmt.Sprintf("... %d lines left out", r.left))
		r.left = 0
	}
}

// splitter cuts a stream into lines; a carriage return ends one too, as progress
// bars use it.
type splitter struct {
	to   *reporter
	line []byte
	cr   bool
}

func (s *splitter) write(p []byte) {
	for _, b := range p {
		switch {
		case b == '\n' && s.cr: // the end of "\r\n" was seen
			s.cr = false
		case b == '\n' || b == '\r':
			s.cr = b == '\r'
			if b == '\n' || len(s.line) > 0 {
				s.to.line(s.line)
			}
			s.line = s.line[:0]
		default:
			s.cr = false
			if len(s.line) < lineLimit {
				s.line = append(s.line, b)
			}
		}
	}
}

func (s *splitter) end() {
	if len(s.line) > 0 {
		s.to.line(s.line)
	}
}

// stream is stdout or stderr of a command: the end of a pipe that is read to its
// end, of which the last bytes are kept. Endless output costs no memory.
type stream struct {
	read, write *os.File
	tail        tail
	split       splitter
	done        chan struct{}
}

func newStream(keep int, to *reporter) (*stream, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &stream{read: r, write: w, tail: tail{keep: keep}, split: splitter{to: to}, done: make(chan struct{})}, nil
}

func (s *stream) run() {
	defer close(s.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := s.read.Read(buf)
		s.take(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.rest(buf)
		}
		if err != nil {
			break
		}
	}
	s.split.end()
}

func (s *stream) take(p []byte) {
	s.tail.write(p)
	if s.split.to.onLine != nil {
		s.split.write(p)
	}
}

// rest reads what lies in the pipe when the time for reading is over: what the
// command wrote before it ended is there, however slow this process was.
func (s *stream) rest(buf []byte) {
	raw, err := s.read.SyscallConn()
	if err != nil {
		return
	}
	s.read.SetReadDeadline(time.Time{})
	raw.Read(func(fd uintptr) bool {
		for total := 0; total < pipeMost; {
			n, err := unix.Read(int(fd), buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				break
			}
			total += n
			s.take(buf[:n])
		}
		return true
	})
}

// finish ends the reading: at once when all writers are gone, else a moment
// later, since a daemon that was left running may hold the pipe for ever.
func (s *stream) finish() {
	s.read.SetReadDeadline(time.Now().Add(pipeWait))
	<-s.done
	s.read.Close()
}

func (s *stream) close() {
	s.read.Close()
	s.write.Close()
}

// feed copies a reader to a pipe. It ends when the pipe has no reader any more,
// or when r does.
func feed(w *os.File, r io.Reader) {
	io.Copy(w, r)
	w.Close()
}

// clean makes a line from a container fit for a terminal and a log: escape
// sequences go, other control characters and broken UTF-8 become "?".
func clean(line string) string {
	if len(line) > lineLimit {
		line = line[:lineLimit]
		for i := 1; i < utf8.UTFMax && i < len(line); i++ { // not through a character
			if utf8.RuneStart(line[len(line)-i]) {
				if !utf8.FullRuneInString(line[len(line)-i:]) {
					line = line[:len(line)-i]
				}
				break
			}
		}
	}
	var b strings.Builder
	for i := 0; i < len(line); {
		r, size := utf8.DecodeRuneInString(line[i:])
		switch {
		case r == '\x1b':
			size = escape(line[i:])
		case r == '\t':
			b.WriteByte(' ')
		case r == utf8.RuneError && size == 1, unicode.IsControl(r):
			b.WriteByte('?')
		case unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029': // turns or hides text
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

// escape is the length of an escape sequence: ESC [ parameters final (ECMA-48),
// else of ESC alone.
func escape(s string) int {
	if len(s) < 2 || s[1] != '[' {
		return 1
	}
	for i := 2; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
		if s[i] < 0x20 || s[i] > 0x7e {
			return i
		}
	}
	return len(s)
}
