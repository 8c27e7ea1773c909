package cache

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

const sayEvery = 5 * time.Second

// meter shows how far a download is: a bar on a terminal, else a line every few seconds.
type meter struct {
	file  string
	total int64 // -1: unknown
	log   Log
	bar   *progressbar.ProgressBar
	start time.Time
	said  time.Time
	first int64 // bytes that an earlier run fetched
	last  int64
}

func (c *Cache) newMeter(file string, total, have int64) *meter {
	m := &meter{file: file, total: total, log: c.log(), start: time.Now(), said: time.Now(), first: have}
	if c.Bar != nil {
		m.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(c.Bar),
			progressbar.OptionSetDescription(file),
			progressbar.OptionShowBytes(true),
			progressbar.OptionSetWidth(20),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish())
	}
	return m
}

// add says how many bytes there are by now.
func (m *meter) add(done int64) {
	m.last = done
	if m.bar != nil {
		_ = m.bar.Set64(done)
		return
	}
	if time.Since(m.said) < sayEvery {
		return
	}
	m.said = time.Now()
	m.log.Infof("fetching %s: %s", m.file, m.line(done-m.first, time.Since(m.start)))
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

// end takes the bar away. It does nothing on nil.
func (m *meter) end() {
	if m != nil && m.bar != nil {
		_ = m.bar.Clear()
	}
}
