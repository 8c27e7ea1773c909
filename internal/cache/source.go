package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

const (
	fileMost    = 4 << 30 // bytes of a run file; the largest known has 463 MB
	flushEvery  = 8 << 20
	brokenMost  = 5   // breaks in a row that brought next to nothing
	rejoinsMost = 200 // breaks in all
)

// errRestart means that what was read so far cannot be continued: the pass that
// read it has to begin again.
var errRestart = errors.New("the transfer has to begin again")

var errStopped = errors.New("stopped")

// source is a download as one stream of bytes, from the first to the last. It
// begins with what an earlier run has left in the partial file, appends to that
// file what it receives, and joins the transfer again when it breaks.
type source struct {
	ctx   context.Context
	c     *Cache
	cl    *retryablehttp.Client
	url   *url.URL
	p     paths
	part  *os.File
	from  origin
	back  int64 // bytes of the partial file that were there before
	off   int64 // bytes handed on
	size  int64 // of the whole; -1: unknown
	kind  string
	body  io.ReadCloser
	meter *meter

	mu   sync.Mutex // held while Read runs
	err  error      // the last word, whatever the reader makes of it
	stop context.CancelCauseFunc

	cut             error // how the transfer broke off last
	broken, rejoins int
	since, flushed  int64 // off at the last connect, and up to where the disk was told to write
}

func (c *Cache) open(ctx context.Context, cl *retryablehttp.Client, u *url.URL, p paths) (*source, error) {
	if st, err := os.Lstat(p.part); err == nil && trust.File(p.part, st) != nil {
		_ = os.Remove(p.part) // it would become the run file, and whose it is could go on changing it
	}
	f, err := os.OpenFile(p.part, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, localFault{explainSpace(err, c.Dir)}
	}
	s := &source{c: c, cl: cl, url: u, p: p, part: f, size: -1}
	s.ctx, s.stop = context.WithCancelCause(ctx)
	if err := s.prepare(); err != nil {
		s.close()
		return nil, err
	}
	s.meter = c.newMeter(p.file(), s.size, s.back)
	return s, nil
}

// prepare decides whether the partial file is continued, and connects.
func (s *source) prepare() error {
	st, err := s.part.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return localFault{errors.Join(fmt.Errorf("%s is not a regular file", s.p.part), err)}
	}
	text, err := ReadFile(s.p.origin, metaMost)
	if err == nil {
		s.from, err = parseOrigin(text)
	}
	if err == nil && s.from.URL == key(s.url) && st.Size() > 0 && st.Size() <= s.from.Size {
		s.back, s.size = st.Size(), s.from.Size
		if s.back == s.size {
			return nil // whole, only not verified yet
		}
		err := s.connect(s.back)
		if err == nil {
			s.c.log().Infof("resuming %s at %s of %s", s.p.file(), say.Bytes(s.back), say.Bytes(s.size))
		}
		if !errors.Is(err, errRestart) {
			return err
		}
		s.c.log().Infof("fetching %s from the start: %v", s.p.file(), err)
	}
	s.back, s.size, s.from = 0, -1, origin{}
	if err := errors.Join(s.part.Truncate(0), s.part.Chmod(0o644)); err != nil {
		return localFault{err}
	}
	return s.connect(0)
}

// connect asks for the file from byte at on.
func (s *source) connect(at int64) error {
	header := http.Header{}
	if at > 0 {
		if s.from.validator() == "" {
			return fmt.Errorf("%w: the server offers nothing by which to resume", errRestart)
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-", at))
		header.Set("If-Range", s.from.validator())
	}
	r, err := request(s.ctx, s.cl, s.url, header)
	if err != nil {
		return err
	}
	if err := s.accept(r, at); err != nil {
		r.Body.Close()
		return err
	}
	s.body, s.since = r.Body, at
	return nil
}

func (s *source) accept(r *http.Response, at int64) error {
	if at > 0 {
		switch r.StatusCode {
		case http.StatusPartialContent:
			first, total, err := contentRange(r.Header.Get("Content-Range"))
			if err != nil {
				return fmt.Errorf("%w: %w", errRestart, err)
			}
			if first != at || total != s.size || differ(r.Header.Get("ETag"), s.from.ETag) || differ(r.Header.Get("Last-Modified"), s.from.LastModified) {
				return fmt.Errorf("%w: the file on the server has changed", errRestart)
			}
			return nil
		case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
			return fmt.Errorf("%w: the file on the server has changed, or the server cannot resume", errRestart)
		}
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", r.Status)
	}
	s.kind = r.Header.Get("Content-Type")
	s.size = r.ContentLength
	if s.size > fileMost {
		return contentFault{fmt.Errorf("the server announces %s, more than any run file has", say.Bytes(s.size))}
	}
	s.from = origin{URL: key(s.url), ETag: r.Header.Get("ETag"), LastModified: r.Header.Get("Last-Modified"), Size: s.size}
	if err := writeJSON(s.p.origin, s.from); err != nil {
		return localFault{explainSpace(err, s.c.Dir)}
	}
	return nil
}

// differ compares what an answer may leave out. A server may pass over If-Range.
func differ(now, before string) bool { return now != "" && before != "" && now != before }

// Read hands on the next bytes. Its error is kept in s.err too.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func (s *source) read(p []byte) (int, error) {
	for {
		switch {
		case s.ctx.Err() != nil:
			return 0, context.Cause(s.ctx)
		case s.off < s.back:
			n, err := s.part.ReadAt(p[:min(int64(len(p)), s.back-s.off)], s.off)
			s.off += int64(n)
			if n > 0 {
				return n, nil
			}
			return 0, localFault{fmt.Errorf("read %s: %w", s.p.part, err)}
		case s.off == s.size:
			return 0, io.EOF
		case s.body == nil:
			if err := s.connect(s.off); err != nil {
				if s.ctx.Err() != nil {
					err = context.Cause(s.ctx)
				} else if s.cut != nil {
					err = fmt.Errorf("%w; %w", s.cut, err)
				}
				return 0, err
			}
		}
		n, err := s.body.Read(p)
		if n > 0 {
			if _, werr := s.part.WriteAt(p[:n], s.off); werr != nil {
				return 0, localFault{explainSpace(werr, s.c.Dir)}
			}
			s.off += int64(n)
			s.meter.add(s.off)
			s.flush()
		}
		if err != nil {
			s.body.Close()
			s.body = nil
			if err == io.EOF && s.size < 0 {
				s.size = s.off // the end is where the server says
			} else if s.off != s.size {
				if err := s.rejoin(err); err != nil {
					return n, err
				}
			}
		}
		if s.off > fileMost {
			return n, contentFault{fmt.Errorf("more than %s, more than any run file has", say.Bytes(fileMost))}
		}
		if n > 0 {
			return n, nil
		}
	}
}

// rejoin decides after a break whether to go on, and waits before that.
func (s *source) rejoin(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the connection was cut")
	}
	at := say.Bytes(s.off)
	if s.size > 0 {
		at += " of " + say.Bytes(s.size)
	}
	err = fmt.Errorf("broken off after %s: %w", at, bare(err))
	if s.off-s.since >= max(1, min(64<<10, s.size/100)) {
		s.broken = 0
	}
	s.broken++
	s.cut = err
	if s.rejoins++; s.broken >= brokenMost || s.rejoins >= rejoinsMost {
		return err
	}
	s.c.log().Infof("%s: %v; going on", s.p.file(), err)
	t := time.NewTimer(s.cl.Backoff(s.cl.RetryWaitMin, s.cl.RetryWaitMax, s.broken-1, nil))
	defer t.Stop()
	select {
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-t.C:
		return nil
	}
}

// flush has the kernel begin to write out now, so that the sync at the end is short.
func (s *source) flush() {
	if s.off-s.flushed >= flushEvery {
		_ = unix.SyncFileRange(int(s.part.Fd()), s.flushed, s.off-s.flushed, unix.SYNC_FILE_RANGE_WRITE)
		s.flushed = s.off
	}
}

// end stops a Read that may still be under way, which the reader's user leaves
// alone when it has failed, and returns what stopped the transfer before, if anything did.
func (s *source) end() error {
	s.stop(errStopped)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == io.EOF || errors.Is(s.err, errStopped) {
		return nil
	}
	return s.err
}

// seal makes the partial file last, once it is verified.
func (s *source) seal() error { return s.part.Sync() }

func (s *source) close() {
	_ = s.end()
	if s.body != nil {
		s.body.Close()
	}
	s.part.Close()
	s.cl.HTTPClient.CloseIdleConnections()
	s.meter.end()
}
