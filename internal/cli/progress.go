package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress keeps a line at the foot of a terminal that says what is under way,
// below the log lines that are written through it. A nil progress does nothing.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	width   func() int
	total   int
	ended   int
	begun   time.Time
	now     []int // under way
	stopped bool
	stop    chan struct{}
}

func newProgress(f *os.File, total int) *progress {
	p := &progress{out: f, total: total, begun: time.Now(), stop: make(chan struct{})}
	p.width = func() int {
		w, _, err := term.GetSize(int(f.Fd()))
		if err != nil || w <= 0 {
			return 80
		}
		return w
	}
	go p.tick()
	return p
}

func (p *progress) tick() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.change(func() {})
		}
	}
}

// Write writes whole lines above the foot.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all bytes.Buffer
	if !p.stopped {
		all.WriteString("\r\x1b[K")
	}
	all.Write(b)
	all.WriteString(p.foot())
	_, err := p.out.Write(all.Bytes())
	return len(b), err
}

func (p *progress) begin(vmid int) {
	if p != nil {
		p.change(func() { p.now = append(p.now, vmid) })
	}
}

func (p *progress) done(vmid int) {
	if p != nil {
		p.change(func() {
			p.ended++
			p.now = slices.DeleteFunc(p.now, func(v int) bool { return v == vmid })
		})
	}
}

// end takes the foot away. Further calls do nothing.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		close(p.stop)
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func (p *progress) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	f()
	fmt.Fprint(p.out, "\r\x1b[K"+p.foot())
}

// foot is such as "3 of 12 done, 14 s; working on 104, 105".
func (p *progress) foot() string {
	if p.stopped {
		return ""
	}
	text := fmt.Sprintf("%d of %d done, %d s", p.ended, p.total, int(time.Since(p.begun).Seconds()))
	if len(p.now) > 0 {
		var ids []string
		for _, v := range p.now {
			ids = append(ids, fmt.Sprint(v))
		}
		text += "; working on " + strings.Join(ids, ", ")
	}
	return cut(text, p.width()-1)
}
