package runfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// readGrace is how long Unpack waits, once it has failed or was cancelled, for
// a Read of the caller's reader that is still under way.
const readGrace = 500 * time.Millisecond

// Unpack reads a run file once from its first byte to its last, checks it
// against w on the way, and writes its payload into the new folder dir, which
// it makes unless it is there and empty. Hashing, decompression and writing run
// side by side; however large the file, together they hold at most some 16 MB and
// the window that the payload's compression asks for at its start: 8 MB at the usual
// levels of zstd and xz, 64 MB at xz's highest, 128 MB at zstd's and at most.
// A wrong header ends it before anything is unpacked. On an error dir may hold
// a part: the caller removes it. dir may be "": then the payload is hashed but
// not unpacked.
//
// Errors are ErrContent, ErrRead, the context's, or those of writing. When it
// fails while a Read of r blocks, Unpack returns after half a second without
// it: end r, and do not use it further. The report then holds what is known.
//
// Nothing is synced to the disk.
func Unpack(ctx context.Context, r io.Reader, dir string, w Want) (Report, error) {
	return unpack(ctx, r, dir, w, hostLimits)
}

func unpack(ctx context.Context, r io.Reader, dir string, w Want, l limits) (report Report, err error) {
	start := time.Now()
	work, cancel := context.WithCancel(ctx)
	src := open(work, r, w)
	defer func() {
		cancel()
		src.hashes.Wait()
		select {
		case <-src.closed:
		case <-time.After(readGrace):
		}
		report.Size, report.Elapsed = src.read.Load(), time.Since(start)
		err = explain(ctx, err, dir, w)
	}()

	br := bufio.NewReaderSize(src.body, headerBuffer)
	if report.Header, err = readHeader(br); err != nil {
		return report, firstCause(src, err)
	}
	if err = report.Header.Check(w); err != nil {
		return report, err
	}
	if dir != "" {
		report.Files, report.Unpacked, err = unpackPayload(work, cancel, src, br, dir, l)
		if err != nil {
			return report, err
		}
	}
	// What follows the tar's end belongs to the file's size and sums.
	if err = src.body.drain(); err != nil {
		return report, firstCause(src, err)
	}
	src.hashes.Wait()
	report.SHA256, err = src.check(report.Header)
	return report, err
}

// unpackPayload decompresses in one goroutine and writes in this one.
func unpackPayload(ctx context.Context, cancel func(), src *source, br *bufio.Reader, dir string, l limits) (int, int64, error) {
	var expanding error // read only after out was closed
	var wg sync.WaitGroup
	free, out := newRing(tarBlocks), make(chan *block, tarBlocks)
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(out)
		expanding = expand(br, free, out, l.total+tarOverhead, stop)
	})
	members := &blockReader{ctx: ctx, in: out, end: func() error { return expanding }}
	files, bytes, err := unpackTree(ctx, members, dir, l)
	if errors.Is(err, errTar) {
		if members.eof {
			err = blame(src, expanding, err)
		} else {
			err = blame(src, nil, err)
		}
	}
	if err != nil {
		cancel()
	}
	// After a whole tar the decoder is a few blocks ahead and stops at the next
	// one: behind the tar's end nothing is decoded that could be a bomb.
	close(stop)
	wg.Wait()
	return files, bytes, err
}

// blame says why a payload could not be unpacked: the reader, the compression or the tar.
func blame(src *source, expanding, tarErr error) error {
	cause := tarErr
	if expanding != nil {
		cause = expanding
	}
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if err := src.failure(); err != nil {
		return err
	}
	if errors.Is(cause, ErrContent) {
		return cause
	}
	at := amountOf(src.read.Load(), src.want.Size)
	if expanding != nil && src.short() {
		return hint.Wrap(wrong("payload ends after %s", at), "the file is cut off: fetch it again")
	}
	return hint.Wrap(wrong("payload is broken after %s: %w", at, cause), "the file is damaged: fetch it again")
}

// firstCause returns the source's own error, of which err is then the echo.
func firstCause(src *source, err error) error {
	if own := src.failure(); own != nil && !errors.Is(err, ErrContent) {
		return own
	}
	return err
}

// explain says what was being done to what. What is wrong with the content is said
// of the file, which the caller names.
func explain(ctx context.Context, err error, dir string, w Want) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil && errors.Is(err, cause) {
		err = context.Cause(ctx)
	}
	if errors.Is(err, ErrContent) {
		return err
	}
	doing := "unpack"
	if dir == "" {
		doing = "check"
	}
	wrapped := fmt.Errorf("%s %s: %w", doing, w.fileName(), err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return hint.Wrap(wrapped, "make room where the cache lies: an unpacked driver takes about 2 GB")
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES):
		return hint.Wrap(wrapped, "the cache folder must be writable for root")
	}
	return wrapped
}
