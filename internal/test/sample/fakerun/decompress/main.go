// Command decompress copies zstd or xz data from its input to its output. A
// sample run file carries it where one of NVIDIA's carries its own static
// decompressor: a minimal container has neither zstd nor xz. It takes the options of both
// (-d, -c) and needs none of them.
package main

import (
	"bufio"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		os.Stderr.WriteString("decompress: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	r := bufio.NewReaderSize(in, 1<<16)
	magic, err := r.Peek(6)
	if err != nil {
		return err
	}
	if string(magic) == "\xfd7zXZ\x00" {
		x, err := xz.NewReader(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, x)
		return err
	}
	z, err := zstd.NewReader(r)
	if err != nil {
		return err
	}
	defer z.Close()
	_, err = z.WriteTo(out)
	return err
}
