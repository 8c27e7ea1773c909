package cache

import (
	"fmt"
	"io"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// How often it is said how far a download is.
const (
	sayEvery  = 5 * time.Second
	showEvery = 100 * time.Millisecond // on a terminal
)

// clearLine takes back the last line of a terminal.
const clearLine = "\r\x1b[K"

// meter shows how far a download is: in one line on a terminal, which is written
// over, else in a line every few seconds.
type meter struct {
	file  string
	total int64 // -1: unknown
	log   Log
	tty   io.Writer // nil: log
	start time.Time
	said  time.Time
	first int64 // bytes that an earlier run fetched
	last  int64
}

func (c *Cache) newMeter(file string, total, have int64) *meter {
	return &meter{file: file, total: total, log: c.log(), tty: c.Terminal, start: time.Now(), said: time.Now(), first: have}
}

// add says how many bytes there are by now.
func (m *meter) add(done int64) {
	m.last = done
	every := sayEvery
	if m.tty != nil {
		every = showEvery
	}
	if time.Since(m.said) < every {
		return
	}
	m.said = time.Now()
	line := fmt.Sprintf("fetching %s: %s", m.file, m.line(done-m.first, time.Since(m.start)))
	if m.tty != nil {
		fmt.Fprint(m.tty, clearLine+line)
		return
	}
	m.log.Infof("%s", line)
}

// line is "120 of 394 MB, 35 MB/s".
func (m *meter) line(fetched int64, in time.Duration) string {
	s := say.Bytes(m.last)
	switch {
	case m.total >= 10e6:
		s = fmt.Sprintf("%d of %d MB", m.last/1e6, m.total/1e6)
	case m.total > 0:
		s += " of " + say.Bytes(m.total)
	}
	if rate := float64(fetched) / in.Seconds() / 1e6; rate >= 10 {
		return s + fmt.Sprintf(", %.0f MB/s", rate)
	} else {
		return s + fmt.Sprintf(", %.1f MB/s", rate)
	}
}

// end takes the line on a terminal away. It does nothing on nil.
func (m *meter) end() {
	if m != nil && m.tty != nil {
		fmt.Fprint(m.tty, clearLine)
	}
}
