package runfile

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	magicGzip  = "\x1f\x8b"
	magicBzip2 = "BZh"
	magicXZ    = "\xfd7zXZ\x00"
	magicZstd  = "\x28\xb5\x2f\xfd"

	// maxWindow is what the zstd tool itself accepts unless told otherwise, so
	// what unpacks with NVIDIA's stub unpacks here. Levels up to 19 need 8 MiB,
	// and no more than the file asks for is allocated. The same bound holds
	// for the dictionary of xz, whose highest level needs 64 MiB.
	maxWindow = 128 << 20
)

// decompress returns the tar stream of a payload, by its first bytes: zstd from
// driver 530 on, before that xz, gzip, bzip2. close frees the decoder.
func decompress(br *bufio.Reader) (r io.Reader, done func(), err error) {
	start, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	none := func() {}
	switch has := func(m string) bool { return bytes.HasPrefix(start, []byte(m)) }; {
	case has(magicZstd):
		// Concurrency 1 decodes in the caller's goroutine: hashing, decoding and
		// writing are already three, and each further one costs a window.
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, wrapFormat("zstd", err)
		}
		return d, d.Close, nil
	case has(magicXZ):
		if dict := xzDictionary(br); dict > maxWindow {
			return nil, nil, wrong("xz payload wants a dictionary of %s, more than %s", amount(dict), amount(maxWindow))
		}
		x, err := xz.NewReader(br)
		return x, none, wrapFormat("xz", err)
	case has(magicGzip):
		z, err := gzip.NewReader(br)
		return z, none, wrapFormat("gzip", err)
	case has(magicBzip2):
		return bzip2.NewReader(br), none, nil
	case len(start) == 0:
		return nil, nil, io.ErrUnexpectedEOF
	}
	return nil, nil, wrong("payload starts with %x: neither zstd, xz, gzip nor bzip2", start)
}

func wrapFormat(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// xzDictionary returns the dictionary size that the first block of an xz stream
// asks for, 0 when it cannot be told: the decoder would allocate it at once.
// Layout: 12 bytes stream header, then header size, flags, optional sizes, and
// one filter of id 0x21 with one byte of properties.
func xzDictionary(br *bufio.Reader) int64 {
	b, _ := br.Peek(64)
	if len(b) < 64 || b[12] == 0 {
		return 0
	}
	flags, i := b[13], 14
	for _, present := range []byte{0x40, 0x80} {
		if flags&present == 0 {
			continue
		}
		for n := 0; n < 9 && b[i]&0x80 != 0; n++ {
			i++
		}
		i++
	}
	if flags&3 != 0 || b[i] != 0x21 || b[i+1] != 1 {
		return 0
	}
	bits := b[i+2] & 0x3f
	if bits > 40 {
		return 1 << 40
	}
	return int64(2|bits&1) << (bits/2 + 11)
}

// tarBlocks of blockSize are decompressed ahead of writing: 2 MB.
const tarBlocks = 8

// expand decompresses br block by block into out until its end, limit bytes of
// output or an error. A decoder that panics on hostile input is an error like
// any other.
func expand(br *bufio.Reader, free <-chan *block, out chan<- *block, limit int64, stop <-chan struct{}) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoder failed: %v", p)
		}
	}()
	r, done, err := decompress(br)
	if err != nil {
		return err
	}
	defer done()
	for total := int64(0); ; {
		var b *block
		select {
		case b = <-free:
		case <-stop:
			return nil
		}
		n, err := fillBlock(r, b)
		b.users.Store(1)
		out <- b
		if total += int64(n); total > limit {
			return wrong("payload unpacks to more than %s", amount(limit))
		}
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, zstd.ErrWindowSizeExceeded) {
			return wrong("zstd payload wants a window of more than %s", amount(maxWindow))
		}
		if err != nil {
			return err
		}
	}
}

// fillBlock fills b. Unlike io.ReadFull it keeps the reader's own error, by
// which a regular end and a stream that breaks off differ.
func fillBlock(r io.Reader, b *block) (n int, err error) {
	buf := b.data[:cap(b.data)]
	for idle := 0; n < len(buf) && err == nil; idle++ {
		var m int
		if m, err = r.Read(buf[n:]); m > 0 {
			idle = 0
		}
		n += m
		if idle > 100 {
			err = io.ErrNoProgress
		}
	}
	b.data = buf[:n]
	return n, err
}
