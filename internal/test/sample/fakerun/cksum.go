package fakerun

// cksum is the checksum that POSIX cksum prints: a CRC of polynomial 0x04C11DB7, most
// significant bit first, over the bytes and then over their number.
type cksum struct {
	crc  uint32
	size uint64
}

var cksumTable = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ 0x04C11DB7
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

func (c *cksum) Write(p []byte) (int, error) {
	crc := c.crc
	for _, b := range p {
		crc = crc<<8 ^ cksumTable[byte(crc>>24)^b]
	}
	c.crc = crc
	c.size += uint64(len(p))
	return len(p), nil
}

// sum is the checksum of what was written so far.
func (c *cksum) sum() uint32 {
	crc := c.crc
	for n := c.size; n > 0; n >>= 8 {
		crc = crc<<8 ^ cksumTable[byte(crc>>24)^byte(n)]
	}
	return ^crc
}
