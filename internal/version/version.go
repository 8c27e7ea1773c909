// Package version knows the form of NVIDIA's driver versions, and this program's own
// version.
package version

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Driver is a driver version of two or three parts, such as "580.142" or
// "580.76.05". Two versions are equal only when their text is: the user space
// must match the kernel module to the last digit.
type Driver string

// Parse returns s as a version, or an error that names the form expected: two
// or three numbers, the first of two to four digits without a leading zero, the
// others of one to three.
func Parse(s string) (Driver, error) {
	major, rest, _ := strings.Cut(s, ".")
	minor, patch, three := strings.Cut(rest, ".")
	if !digits(major, 2, 4) || major[0] == '0' || !digits(minor, 1, 3) || three && !digits(patch, 1, 3) {
		return "", fmt.Errorf("%q is not a driver version such as 580.142 or 580.76.05", s)
	}
	return Driver(s), nil
}

func digits(s string, least, most int) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) >= least && len(s) <= most
}

// Compare orders versions by their parts as numbers; a missing part counts as 0.
func Compare(a, b Driver) int {
	as, bs := strings.Split(string(a), "."), strings.Split(string(b), ".")
	for i := range max(len(as), len(bs)) {
		if c := cmp.Compare(part(as, i), part(bs, i)); c != 0 {
			return c
		}
	}
	return 0
}

func part(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, _ := strconv.Atoi(parts[i])
	return n
}

// Program is the version of this program, set when it is linked.
var Program = "dev"
