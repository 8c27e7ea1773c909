package runfile

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

const (
	magicGzip  = "\x1f\x8b"
	magicBzip2 = "BZh"
	magicXZ    = "\xfd7zXZ\x00"
	magicZstd  = "\x28\xb5\x2f\xfd"

	// maxWindow bounds how far back a payload may refer, which is what has to be
	// held of it. zstd needs 8 MiB up to level 19 and 128 MiB with --ultra -22 or
	// --long; more than that the zstd tool refuses too unless told otherwise. xz
	// needs 8 MiB by default and 64 MiB at its highest level. Which level NVIDIA
	// uses is not published, so that nothing below is refused.
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
		window, err := zstdWindow(br)
		if err != nil {
			return nil, nil, err
		}
		// Concurrency 1 decodes in the caller's goroutine: hashing, decoding and
		// writing are already three, and each further one costs a window.
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
		if err != nil {
			return nil, nil, wrapFormat("zstd", err)
		}
		return d, d.Close, nil
	case has(magicXZ):
		dictionary, err := xzDictionary(br)
		if err != nil {
			return nil, nil, err
		}
		x, err := xz.NewReader(br, dictionary)
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

// errGrows: a larger window would be held beside the one before it, which is garbage
// by then but not yet collected. What one run of a tool has packed does not do that.
var errGrows = errors.New("it wants a larger window on its way than at its start")

// zstdWindow returns the window of the first frame, which those behind it must do with.
func zstdWindow(br *bufio.Reader) (uint64, error) {
	var h zstd.Header
	if b, _ := br.Peek(zstd.HeaderMaxSize); h.Decode(b) != nil {
		return maxWindow, nil // the decoder says what is wrong with it
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if window > maxWindow {
		return 0, wrong("zstd payload wants a window of %s, more than %s", amount(int64(min(window, 1<<62))), amount(maxWindow))
	}
	return max(window, zstd.MinWindowSize), nil
}

// xzDictionary returns the size of the dictionary of the first block, which those
// behind it must do with. Layout: 12 bytes stream header, then header size, flags,
// optional sizes, and filters of an id, a length and so many bytes, of which LZMA2,
// id 0x21, is the last.
func xzDictionary(br *bufio.Reader) (uint32, error) {
	b, _ := br.Peek(12 + 1024) // the most that a block header has
	if len(b) < 20 {
		return maxWindow, nil // here and below: the decoder says what is wrong with it
	}
	if b[12] == 0 {
		return 0, wrong("xz payload starts with an empty stream")
	}
	b = b[12:min(len(b), 12+4*(int(b[12])+1))]
	i := 2
	for _, present := range []byte{0x40, 0x80} {
		if b[1]&present == 0 {
			continue
		}
		for i < len(b) && b[i]&0x80 != 0 {
			i++
		}
		i++
	}
	for range b[1]&3 + 1 {
		if i+2 >= len(b) {
			break
		}
		if b[i] != 0x21 {
			i += 2 + int(b[i+1])
			continue
		}
		bits := b[i+2] & 0x3f
		size := int64(2|bits&1) << (min(bits, 40)/2 + 11)
		if size > maxWindow {
			return 0, wrong("xz payload wants a dictionary of %s, more than %s", amount(size), amount(maxWindow))
		}
		return uint32(size), nil
	}
	return maxWindow, nil
}

// expand decompresses br into w until its end, limit bytes of output, an error, or
// until w is closed. A decoder that panics on hostile input is an error like any
// other.
func expand(br *bufio.Reader, w io.Writer, limit int64) (err error) {
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
	buf := make([]byte, chunk)
	for total, idle := int64(0), 0; idle < 100; idle++ {
		n, err := r.Read(buf)
		if n > 0 {
			idle = 0
		}
		if total += int64(n); total > limit {
			return wrong("payload unpacks to more than %s", amount(limit))
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return nil // the tar has ended before
		}
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, xz.ErrMemlimit) {
			return errGrows
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
