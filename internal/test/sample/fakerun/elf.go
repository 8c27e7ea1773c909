package fakerun

import (
	"encoding/binary"
)

// sharedObject is the start of a shared object of the given architecture (x86_64,
// aarch64 or i386) that bears soname and needs the C library and others: as much
// of an ELF file as ldconfig and the dynamic loader look at, with the sections that
// debug/elf goes by. Any bytes may follow it.
func sharedObject(arch, soname string, needs ...string) []byte {
	const (
		pageAlign = 0x1000
		load      = 1
		dynamic   = 2
		gnuStack  = 0x6474e551
	)
	wide := arch != "i386"
	machine := map[string]uint16{"i386": 3, "x86_64": 62, "aarch64": 183}[arch]
	word, class, header, program, symbol, section := 8, byte(2), 64, 56, 24, 64
	if !wide {
		word, class, header, program, symbol, section = 4, 1, 52, 32, 16, 40
	}

	// Layout: header, three program headers, hash table, the one symbol that every
	// table starts with, strings, dynamic section.
	strings := "\x00"
	named := func(name string) int {
		strings += name + "\x00"
		return len(strings) - len(name) - 1
	}
	var entries [][2]int
	for _, name := range append([]string{"libc.so.6"}, needs...) {
		entries = append(entries, [2]int{1, named(name)}) // NEEDED
	}
	entries = append(entries, [2]int{14, named(soname)}) // SONAME
	hash := align(header+3*program, 8)
	symbols := hash + 4*4
	names := align(symbols, 8) + symbol
	dyn := align(names+len(strings), 16)
	entries = append(entries, [][2]int{
		{4, hash},
		{5, names},
		{6, align(symbols, 8)},
		{10, len(strings)},
		{11, symbol},
		{0, 0},
	}...)
	sections := align(dyn+len(entries)*2*word, 16)
	size := sections + 3*section

	out := make([]byte, size)
	le := binary.LittleEndian
	put := func(at, width, value int) int {
		switch width {
		case 2:
			le.PutUint16(out[at:], uint16(value))
		case 4:
			le.PutUint32(out[at:], uint32(value))
		case 8:
			le.PutUint64(out[at:], uint64(value))
		}
		return at + width
	}
	copy(out, "\x7fELF")
	out[4], out[5], out[6] = class, 1, 1
	at := put(16, 2, 3) // a shared object
	at = put(at, 2, int(machine))
	at = put(at, 4, 1)
	at = put(at, word, 0)
	at = put(at, word, header)
	at = put(at, word, sections)
	at = put(at, 4, 0)
	for _, v := range []int{header, program, 3, section, 3, 0} {
		at = put(at, 2, v)
	}

	segment := func(kind, flags, offset, length, alignment int) {
		at = put(at, 4, kind)
		if wide {
			at = put(at, 4, flags)
		}
		for _, v := range []int{offset, offset, offset, length, length} {
			at = put(at, word, v)
		}
		if !wide {
			at = put(at, 4, flags)
		}
		at = put(at, word, alignment)
	}
	segment(load, 6, 0, size, pageAlign)
	segment(dynamic, 6, dyn, len(entries)*2*word, word)
	segment(gnuStack, 6, 0, 0, 16)

	// One that is empty, the strings, and the dynamic section, which links to them.
	at = sections + section
	for _, s := range [][6]int{{3, names, len(strings), 0, 1, 0}, {6, dyn, len(entries) * 2 * word, 1, word, 2 * word}} {
		at = put(at, 4, 0)
		at = put(at, 4, s[0])
		at = put(at, word, 0)
		at = put(at, word, s[1])
		at = put(at, word, s[1])
		at = put(at, word, s[2])
		at = put(at, 4, s[3])
		at = put(at, 4, 0)
		at = put(at, word, s[4])
		at = put(at, word, s[5])
	}

	put(put(hash, 4, 1), 4, 1) // one bucket, one symbol
	copy(out[names:], strings)
	at = dyn
	for _, e := range entries {
		at = put(put(at, word, e[0]), word, e[1])
	}
	return out
}

func align(n, to int) int { return (n + to - 1) / to * to }
