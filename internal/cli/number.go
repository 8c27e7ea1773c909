package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// number is a flag's value from least to most; pflag's own answers a word with
// the words of Go's library.
type number struct {
	to          *int
	least, most int
}

func numberFlag(f *pflag.FlagSet, to *int, name string, value, least, most int, usage string) {
	*to = value
	f.Var(number{to, least, most}, name, fmt.Sprintf("%s, %d to %d", usage, least, most))
}

func (n number) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v < n.least || v > n.most {
		return fmt.Errorf("expected a number from %d to %d", n.least, n.most)
	}
	*n.to = v
	return nil
}

func (n number) String() string {
	if n.to == nil { // pflag asks a zero one
		return "0"
	}
	return strconv.Itoa(*n.to)
}

func (n number) Type() string { return "int" }
