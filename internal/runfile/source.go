package runfile

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// sourceBlocks of blockSize are read ahead: 4 MB.
	sourceBlocks = 16
	// maxRunFile bounds a stream of unknown length. The largest known file has 463 MB.
	maxRunFile = 4 << 30
)

// source reads a run file once and hands each block to the two hashes and to
// the payload's reader.
type source struct {
	want   Want
	read   atomic.Int64
	err    error         // of reading; valid once closed is closed
	closed chan struct{} // the reader has ended
	sha256 hash.Hash
	md5    hash.Hash // of what follows the third newline
	hashes sync.WaitGroup
	body   *blockReader
}

// open starts to read r. Cancel ctx and call wait to end it.
func open(ctx context.Context, r io.Reader, w Want) *source {
	s := &source{want: w, closed: make(chan struct{}), sha256: sha256.New(), md5: md5.New()}
	free := newRing(sourceBlocks)
	var lanes [3]chan *block
	for i := range lanes {
		lanes[i] = make(chan *block, sourceBlocks)
	}
	end := func() error { <-s.closed; return s.err }
	s.body = &blockReader{ctx: ctx, in: lanes[0], end: end}
	go func() {
		s.err = s.fill(ctx, r, free, lanes[:])
		close(s.closed)
		for _, lane := range lanes {
			close(lane)
		}
	}()
	s.hashes.Go(func() { hashBlocks(ctx, lanes[1], s.sha256, 0) })
	s.hashes.Go(func() { hashBlocks(ctx, lanes[2], s.md5, 3) })
	return s
}

func (s *source) fill(ctx context.Context, r io.Reader, free <-chan *block, lanes []chan *block) error {
	limit := int64(maxRunFile)
	if s.want.Size > 0 {
		limit = s.want.Size
	}
	for idle := 0; idle < 100; {
		var b *block
		select {
		case b = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := r.Read(b.data[:cap(b.data)])
		if n < 0 || n > cap(b.data) {
			return &marked{fmt.Errorf("read: reader returned a count of %d", n), ErrRead}
		}
		b.data = b.data[:n]
		idle++
		if n > 0 {
			idle = 0
		}
		if s.read.Add(int64(n)) > limit {
			if s.want.Size > 0 {
				return wrong("size is more than %d bytes, wanted %d", limit, limit)
			}
			return wrong("size is more than %s: no run file", amount(limit))
		}
		b.users.Store(int32(len(lanes)))
		for _, lane := range lanes {
			lane <- b
		}
		if err == io.EOF {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return &marked{fmt.Errorf("read after %s: %w", amountOf(s.read.Load(), s.want.Size), err), ErrRead}
		}
	}
	return &marked{fmt.Errorf("read: %w", io.ErrNoProgress), ErrRead}
}

// hashBlocks hashes a stream from behind its first newlines on.
func hashBlocks(ctx context.Context, in <-chan *block, h hash.Hash, newlines int) {
	for {
		select {
		case b, ok := <-in:
			if !ok {
				return
			}
			data := b.data
			for newlines > 0 && len(data) > 0 {
				i := bytes.IndexByte(data, '\n')
				if i < 0 {
					data = nil
					break
				}
				newlines--
				data = data[i+1:]
			}
			h.Write(data)
			b.done()
		case <-ctx.Done():
			return
		}
	}
}

// failure returns the source's own error, if it has ended with one.
func (s *source) failure() error {
	select {
	case <-s.closed:
		return s.err
	default:
		return nil
	}
}

// short tells whether the stream has ended before the size wanted, or has ended
// at all when none was given.
func (s *source) short() bool {
	return s.body.eof && (s.want.Size <= 0 || s.read.Load() < s.want.Size)
}

// check compares what was read with what was wanted: size, sha256, MD5.
func (s *source) check(h Header) (string, error) {
	sum := hex.EncodeToString(s.sha256.Sum(nil))
	if size := s.read.Load(); s.want.Size > 0 && size != s.want.Size {
		return sum, wrong("size is %d bytes, wanted %d", size, s.want.Size)
	}
	if want := s.want.SHA256; want != "" && !equalHex(sum, want) {
		return sum, wrong("sha256 is %s, wanted %s", sum, want)
	}
	if md5 := hex.EncodeToString(s.md5.Sum(nil)); md5 != h.MD5 {
		return sum, wrong("the file is damaged, its checksum is not that in its header (md5 %s, in the header %s)", md5, h.MD5)
	}
	return sum, nil
}

func equalHex(a, b string) bool {
	x, err := hex.DecodeString(a)
	y, err2 := hex.DecodeString(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}
