package runfile

import (
	"context"
	"io"
	"sync/atomic"
)

// blockSize is large enough to make hand-overs between goroutines cheap, and
// small enough for a ring of blocks to stay at a few MB.
const blockSize = 256 << 10

// block is a piece of a stream that several goroutines may look at; the last
// one to be done with it sends it home.
type block struct {
	data  []byte // the filled part
	users atomic.Int32
	home  chan *block
}

func (b *block) done() {
	if b.users.Add(-1) == 0 {
		b.home <- b
	}
}

// newRing makes n empty blocks, which are all the memory that a stream takes.
// A channel of n blocks that carries them never blocks its sender.
func newRing(n int) chan *block {
	home := make(chan *block, n)
	for range n {
		home <- &block{data: make([]byte, 0, blockSize), home: home}
	}
	return home
}

// blockReader reads the blocks that arrive on a channel, until it is closed.
type blockReader struct {
	ctx  context.Context
	in   <-chan *block
	end  func() error // why the channel was closed; nil or io.EOF at the regular end
	now  *block
	rest []byte
	eof  bool
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.now != nil {
			r.now.done()
			r.now = nil
		}
		// A cancelled context wins over blocks that wait.
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		select {
		case b, ok := <-r.in:
			if !ok {
				r.eof = true
				if err := r.end(); err != nil {
					return 0, err
				}
				return 0, io.EOF
			}
			r.now, r.rest = b, b.data
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// drain passes over all blocks to the end, which other readers still need.
func (r *blockReader) drain() error {
	r.rest = nil
	var none [1]byte
	for {
		if _, err := r.Read(none[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		r.rest = nil
	}
}
