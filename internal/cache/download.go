package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

const (
	maxFileSize = 4 << 30 // bytes of a run file; the largest known has 463 MB

	// A connection must bring 100 kB a second on average in each minute. One that
	// does not is closed and opened again, and with the third the URL is given up.
	speedWindow = time.Minute
	minInWindow = 60 * 100 << 10
	maxSlow     = 3

	maxBroken   = 5 // breaks in a row that brought next to nothing
	maxRestarts = 3 // from the first byte, when the server cannot resume
)

// errSlow ends a connection that is too slow to be of use.
var errSlow = errors.New("the server sends less than 100 kB/s")

// broken marks a connection that ended early. Another one may go on.
type broken struct{ error }

func (e broken) Unwrap() error { return e.error }

// download brings the file at a URL into the partial file.
type download struct {
	c        *Cache
	cl       *retryablehttp.Client
	url      *url.URL
	p        paths
	want     Want
	part     *os.File
	from     origin
	have     int64 // bytes of the partial file
	resumed  bool  // some of them are from an earlier run
	restarts int
	kind     string // Content-Type
	meter    *meter
}

// openPart opens the partial file and finds out whether it can be gone on with.
func (c *Cache) openPart(u *url.URL, p paths, w Want) (*download, error) {
	if st, err := os.Lstat(p.part); err == nil && trust.File(p.part, st) != nil {
		_ = os.Remove(p.part) // its owner could change it when it is the run file
	}
	f, err := os.OpenFile(p.part, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, localFault{explainSpace(err, c.Dir)}
	}
	d := &download{c: c, cl: c.client(w.SHA256 != ""), url: u, p: p, want: w, part: f}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", p.part)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		return nil, localFault{err}
	}
	text, err := trust.ReadFile(p.origin, maxSmall)
	if err == nil {
		d.from, err = parseOrigin(text)
	}
	if err == nil && d.from.URL == key(u) && st.Size() > 0 && st.Size() <= d.from.Size {
		d.have, d.resumed = st.Size(), true
		c.log().Infof("resuming %s at %s of %s", p.file(), say.Bytes(d.have), say.Bytes(d.from.Size))
	}
	return d, nil
}

func (d *download) close() {
	if st, err := d.part.Stat(); err == nil && st.Size() == 0 {
		_ = os.Remove(d.p.part)
		_ = os.Remove(d.p.origin)
	}
	d.part.Close()
	d.cl.HTTPClient.CloseIdleConnections()
	d.meter.end()
}

// flush has the kernel write out what is there, so that the sync at the end is short.
func (d *download) flush() {
	_ = unix.SyncFileRange(int(d.part.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// run downloads until the file is whole. It connects again when a connection
// breaks, as long as that brings something.
func (d *download) run(ctx context.Context) error {
	for breaks, slow := 0, 0; ; {
		before := d.have
		err := d.connect(ctx)
		var again broken
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("stopped after %s: %w", d.amount(), context.Cause(ctx))
		case !errors.As(err, &again):
			return err
		}
		err = fmt.Errorf("interrupted after %s: %w", d.amount(), err)
		if breaks++; d.have-before >= max(1, min(64<<10, d.from.Size/100)) {
			breaks = 1
		}
		if errors.Is(err, errSlow) {
			slow++
		}
		if breaks >= maxBroken || slow >= maxSlow || d.restarts >= maxRestarts {
			return err
		}
		d.c.log().Infof("%s: %v; going on", d.p.file(), err)
		select {
		case <-ctx.Done():
		case <-time.After(d.cl.Backoff(d.cl.RetryWaitMin, d.cl.RetryWaitMax, breaks-1, nil)):
		}
	}
}

// amount is "120 MB of 394 MB".
func (d *download) amount() string {
	if d.from.Size > 0 {
		return say.Bytes(d.have) + " of " + say.Bytes(d.from.Size)
	}
	return say.Bytes(d.have)
}

// connect asks once for what is missing and appends what it gets.
func (d *download) connect(ctx context.Context) error {
	if d.have > 0 && d.have == d.from.Size {
		return nil // whole, only not verified yet
	}
	if d.have > 0 && d.from.validator() == "" {
		if err := d.restart("the server does not support resuming"); err != nil {
			return err
		}
	}
	header := http.Header{}
	if d.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		header.Set("If-Range", d.from.validator())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := request(ctx, d.cl, d.url, header)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if err := d.accept(r); err != nil {
		return err
	}
	if d.meter == nil {
		d.meter = d.c.newMeter(d.p.file(), d.from.Size, d.have)
		d.c.log().Infof("fetching %s from %s", d.p.file(), shown(d.url))
	}
	var got atomic.Int64
	go d.c.watch(ctx, cancel, &got)
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, err := d.part.WriteAt(buf[:n], d.have); err != nil {
				return localFault{explainSpace(err, d.c.Dir)}
			}
			got.Add(int64(n))
			d.have += int64(n)
			d.meter.add(d.have)
		}
		switch {
		case d.have > maxFileSize:
			return tooLarge(d.have)
		case err == io.EOF && (d.from.Size < 0 || d.have == d.from.Size):
			d.from.Size = d.have // of unknown size until now
			return nil
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			return broken{errors.New("the connection was cut")}
		case err != nil:
			return broken{because(ctx, bare(err))}
		}
	}
}

// watch ends a connection that is too slow.
func (c *Cache) watch(ctx context.Context, cancel context.CancelCauseFunc, got *atomic.Int64) {
	ticks := c.pace.ticks
	if ticks == nil {
		t := time.NewTicker(speedWindow)
		defer t.Stop()
		ticks = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			if got.Swap(0) < minInWindow {
				cancel(errSlow)
				return
			}
		}
	}
}

// accept looks whether an answer is what was asked for.
func (d *download) accept(r *http.Response) error {
	if d.have > 0 {
		switch r.StatusCode {
		case http.StatusPartialContent:
			whole := fmt.Sprintf("bytes %d-%d/%d", d.have, d.from.Size-1, d.from.Size)
			if r.Header.Get("Content-Range") == whole &&
				!differ(r.Header.Get("ETag"), d.from.ETag) && !differ(r.Header.Get("Last-Modified"), d.from.LastModified) {
				return nil
			}
			fallthrough
		case http.StatusRequestedRangeNotSatisfiable:
			if err := d.restart("the file on the server has changed"); err != nil {
				return err
			}
			return broken{errors.New("the file on the server has changed")}
		case http.StatusOK: // and here it comes whole
			if err := d.restart("the file on the server has changed, or the server cannot resume"); err != nil {
				return err
			}
		}
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", r.Status)
	}
	d.kind = r.Header.Get("Content-Type")
	if r.ContentLength > maxFileSize {
		return tooLarge(r.ContentLength)
	}
	if err := d.c.roomFor(r.ContentLength, 0, d.want.Tree, d.p); err != nil {
		return err
	}
	d.from = origin{URL: key(d.url), ETag: r.Header.Get("ETag"), LastModified: r.Header.Get("Last-Modified"), Size: r.ContentLength}
	if err := errors.Join(d.part.Truncate(0), writeJSON(d.p.origin, d.from)); err != nil {
		return localFault{explainSpace(err, d.c.Dir)}
	}
	return nil
}

// restart gives up what was fetched so far.
func (d *download) restart(why string) error {
	d.c.log().Infof("fetching %s from the start: %s", d.p.file(), why)
	d.have, d.resumed = 0, false
	if d.restarts++; d.restarts > maxRestarts {
		return errors.New(why)
	}
	if err := d.part.Truncate(0); err != nil {
		return localFault{err}
	}
	return nil
}

// differ compares what an answer may leave out. A server may pass over If-Range.
func differ(now, before string) bool { return now != "" && before != "" && now != before }

// tooLarge is an error of the content, though runfile has not seen it.
func tooLarge(size int64) error {
	return fmt.Errorf("%w: %s is more than any run file has", runfile.ErrContent, say.Bytes(size))
}

// because returns why ctx was ended, if it was, else err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
