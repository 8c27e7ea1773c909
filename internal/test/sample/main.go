// Command sample writes a run file in the form of NVIDIA's, for demo and bench:
//
//	go run ./internal/test/sample -version 550.163.01 -size 400MB -o DIR
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

func main() {
	var s fakerun.Spec
	flag.StringVar(&s.Version, "version", "550.163.01", "driver `version`")
	flag.StringVar(&s.Arch, "arch", "x86_64", "x86_64 or aarch64")
	flag.StringVar(&s.Compression, "compression", "", "zstd, xz or gzip (default: as NVIDIA does for the version)")
	flag.Func("size", "approximate `size` of the run file, such as 400MB (default: as small as it gets)", func(text string) (err error) {
		s.Size, err = bytes(text)
		return err
	})
	dir := flag.String("o", ".", "`folder` to write it into")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	path, err := fakerun.Write(*dir, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// bytes reads a number of bytes with an optional unit of kB, MB or GB, in powers of 1000.
func bytes(text string) (int64, error) {
	units := map[string]int64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}
	number := strings.TrimRight(strings.ToUpper(text), "KMGB")
	unit, ok := units[strings.ToUpper(text)[len(number):]]
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !ok || n < 0 || n > 1e12/unit {
		return 0, fmt.Errorf("%q is no size such as 400MB", text)
	}
	return n * unit, nil
}
