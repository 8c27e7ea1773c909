package runfile

import (
	"bufio"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// maxRunFile bounds what is read. The largest known file has 463 MB.
const maxRunFile = 4 << 30

// chunk is what is read, decompressed and written at once.
const chunk = 256 << 10

// Unpack reads a run file, checks it against w, and writes its payload into the new
// folder dir, which it makes unless it is there and empty. Hashing, decompression and
// writing run side by side; however large the file, together they hold at most some
// 16 MB and the window that the payload's compression asks for at its start: 8 MB at
// the usual levels of zstd and xz, 64 MB at xz's highest, 128 MB at zstd's and at most.
// A wrong header ends it before anything is unpacked. On an error dir may hold
// a part: the caller removes it. dir may be "": then the file is hashed only.
//
// Errors are ErrContent, those of reading or writing, or the context's.
//
// Nothing is synced to the disk.
func Unpack(ctx context.Context, r io.ReaderAt, dir string, w Want) (Report, error) {
	return unpack(ctx, r, dir, w, hostLimits)
}

func unpack(ctx context.Context, r io.ReaderAt, dir string, w Want, l limits) (report Report, err error) {
	defer func(start time.Time) {
		report.Elapsed = time.Since(start)
		err = explain(ctx, err, dir, w)
	}(time.Now())
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	head := from(work, r, 0)
	if report.Header, err = readHeader(bufio.NewReaderSize(head, headerBuffer)); err != nil {
		return report, errors.Join(head.failed, err)
	}
	if err = report.Header.Check(w); err != nil {
		return report, err
	}
	var sums sync.WaitGroup
	whole, body := from(work, r, 0), from(work, r, 0) // body is what the MD5 covers
	sha, sum5 := sha256.New(), md5.New()
	sums.Go(func() { hashOf(whole, sha, 0) })
	sums.Go(func() { hashOf(body, sum5, 3) })
	if dir != "" {
		report.Files, report.Unpacked, err = unpackPayload(from(work, r, report.Header.Payload), dir, l)
	}
	if err != nil {
		cancel()
	}
	sums.Wait()
	if err = cmp.Or(err, whole.failed, body.failed); err != nil {
		return report, err
	}
	report.Size, report.SHA256 = whole.at, hex.EncodeToString(sha.Sum(nil))
	if w.SHA256 != "" && !strings.EqualFold(report.SHA256, w.SHA256) {
		return report, wrong("sha256 is %s, wanted %s", report.SHA256, w.SHA256)
	}
	if got := hex.EncodeToString(sum5.Sum(nil)); got != report.Header.MD5 {
		return report, wrong("the file is damaged, its checksum is not that in its header (md5 %s, in the header %s)", got, report.Header.MD5)
	}
	return report, nil
}

// reader reads a file from a place on, until ctx ends, and remembers how that came out.
type reader struct {
	ctx    context.Context
	file   io.ReaderAt
	at     int64
	ended  bool  // at the end of the file
	failed error // of ctx or the file, not of what is in it
}

func from(ctx context.Context, r io.ReaderAt, at int64) *reader {
	return &reader{ctx: ctx, file: r, at: at}
}

func (r *reader) Read(p []byte) (int, error) {
	if r.failed = r.ctx.Err(); r.failed != nil {
		return 0, r.failed
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), maxRunFile-r.at)], r.at)
	r.at += int64(n)
	switch {
	case err == io.EOF, n == 0 && err == nil: // the latter at maxRunFile
		r.ended = true
		err = io.EOF
	case err != nil:
		r.failed = fmt.Errorf("read after %s: %w", amount(r.at), err)
		err = r.failed
	}
	return n, err
}

// hashOf hashes a file from behind its first newlines on.
func hashOf(r *reader, h hash.Hash, newlines int) {
	br := bufio.NewReaderSize(r, chunk)
	for newlines > 0 {
		if _, err := br.ReadSlice('\n'); err == nil {
			newlines--
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
	_, _ = io.Copy(h, br) // r remembers its error
}

// unpackPayload decompresses in one goroutine and writes in this one.
func unpackPayload(r *reader, dir string, l limits) (files int, size int64, err error) {
	var wg sync.WaitGroup
	var expanding error
	members, out := io.Pipe()
	wg.Go(func() {
		expanding = expand(bufio.NewReaderSize(r, chunk), out, l.total+tarOverhead)
		out.CloseWithError(expanding)
	})
	files, size, err = unpackTree(r.ctx, members, dir, l)
	// Behind the tar's end nothing is decoded that could be a bomb.
	members.Close()
	wg.Wait()
	if !errors.Is(err, errTar) {
		return files, size, err
	}
	cause := cmp.Or(expanding, err)
	switch {
	case r.failed != nil:
		return files, size, r.failed
	case errors.Is(cause, ErrContent):
		return files, size, cause
	case errors.Is(expanding, io.ErrUnexpectedEOF) && r.ended:
		return files, size, hint.Wrap(wrong("payload ends after %s", amount(r.at)), "the file is cut off: fetch it again")
	}
	return files, size, hint.Wrap(wrong("payload is broken after %s: %w", amount(r.at), cause), "the file is damaged: fetch it again")
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
