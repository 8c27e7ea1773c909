package lxc

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

const (
	lineLimit   = 500  // bytes of a line given to OnLine
	linesBurst  = 2000 // lines that OnLine gets at once,
	linesSecond = 500  // and then in a second
)

// output takes what a command prints. Endless output costs no memory.
type output struct {
	mu             sync.Mutex
	stdout, stderr stream
	onLine         func(string)
	budget         float64 // lines that OnLine may get now
	last           time.Time
	left           int // lines that it did not get
	over           bool
}

func newOutput(cmd Cmd) *output {
	o := &output{onLine: cmd.OnLine, budget: linesBurst, last: time.Now()}
	keep := cmd.Keep
	if keep <= 0 {
		keep = defaultKeep
	}
	o.stdout, o.stderr = stream{to: o, keep: keep}, stream{to: o, keep: keep}
	return o
}

// finish gives the rest to OnLine and refuses what comes later: a daemon that was
// left running may go on writing.
func (o *output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	o.stdout.end()
	o.stderr.end()
	o.flush()
}

// line gives a line to OnLine, unless there are more than a person or a task log
// can take.
func (o *output) line(line []byte) {
	now := time.Now()
	o.budget = min(linesBurst, o.budget+now.Sub(o.last).Seconds()*linesSecond)
	o.last = now
	if o.budget < 1 {
		o.left++
		return
	}
	o.budget--
	o.flush()
	o.onLine(say.Clean(string(line), lineLimit))
}

func (o *output) flush() {
	if o.left > 0 {
		o.onLine(fmt.Sprintf("... %d lines left out", o.left))
		o.left = 0
	}
}

// stream is stdout or stderr of a command. It keeps the last bytes, and cuts what
// comes into lines. A carriage return ends a line too, as progress bars use it.
type stream struct {
	to   *output
	keep int
	buf  []byte
	part []byte // of the line that has not ended
	cr   bool
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if s.to.over {
		return 0, os.ErrClosed
	}
	s.store(p)
	if s.to.onLine != nil {
		s.split(p)
	}
	return len(p), nil
}

func (s *stream) store(p []byte) {
	p = p[max(0, len(p)-s.keep):]
	if len(s.buf)+len(p) > 2*s.keep {
		s.buf = s.buf[:copy(s.buf, s.tail())]
	}
	s.buf = append(s.buf, p...)
}

func (s *stream) tail() []byte { return s.buf[max(0, len(s.buf)-s.keep):] }

func (s *stream) split(p []byte) {
	for _, b := range p {
		switch {
		case b == '\n' && s.cr: // the end of "\r\n" was seen
			s.cr = false
		case b == '\n' || b == '\r':
			s.cr = b == '\r'
			if b == '\n' || len(s.part) > 0 {
				s.to.line(s.part)
			}
			s.part = s.part[:0]
		default:
			s.cr = false
			if len(s.part) < lineLimit {
				s.part = append(s.part, b)
			}
		}
	}
}

func (s *stream) end() {
	if len(s.part) > 0 {
		s.to.line(s.part)
		s.part = nil
	}
}
