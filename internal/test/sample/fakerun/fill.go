package fakerun

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
)

const block = 64 << 10

// pool generates file content without end that compresses to about a quarter, as a
// driver's libraries do: blocks of words taken from a thousand, in an order of each file's own,
// and random blocks between them. A decompressor has real work with it.
type pool struct {
	words  []byte
	random []byte
}

func newPool(s Spec) *pool {
	// Compressors look back some MB: in a small pool they would find whole blocks again.
	blocks := 16
	if s.Size > 0 {
		blocks = 512
	}
	r := rand.New(rand.NewChaCha8(sha256.Sum256([]byte("words"))))
	var dictionary [1024][]byte
	for i := range dictionary {
		word := make([]byte, 5+r.IntN(10))
		for j := range word {
			word[j] = byte(r.UintN(256))
		}
		dictionary[i] = word
	}
	p := &pool{words: make([]byte, 0, blocks*block+16), random: make([]byte, block)}
	for len(p.words) < blocks*block {
		n := r.Uint64()
		// The product of two numbers prefers the first words, as language does.
		p.words = append(p.words, dictionary[(n&0x3ff)*(n>>10&0x3ff)>>10]...)
	}
	p.words = p.words[:blocks*block]
	return p
}

// write writes n bytes that depend on seed only.
func (p *pool) write(w io.Writer, seed string, n int64) error {
	if n <= 0 {
		return nil
	}
	source := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	r := rand.New(source)
	unique := int64(256) // no two files are equal, however small
	for n > 0 {
		var b []byte
		switch {
		case unique > 0:
			b = p.random[:unique]
			_, _ = source.Read(b)
			unique = 0
		case r.UintN(1000) < randomPerMille:
			b = p.random
			_, _ = source.Read(b)
		default:
			at := r.IntN(len(p.words)/block) * block
			b = p.words[at : at+block]
		}
		b = b[:min(int64(len(b)), n)]
		if _, err := w.Write(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

// randomPerMille blocks of a thousand are random; chosen by measuring, so that
// the whole compresses to a quarter.
const randomPerMille = 30
