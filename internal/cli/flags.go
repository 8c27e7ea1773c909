package cli

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// wordFlag is a flag whose value is checked before anything else is done.
func wordFlag(f *pflag.FlagSet, to *string, name string, check func(string) error, usage string) {
	f.Func(name, usage, func(s string) error {
		*to = s
		return check(s)
	})
}

// numberFlag is a flag from least to most. pflag's own would answer a word with the
// words of Go's library.
func numberFlag(f *pflag.FlagSet, to *int, name string, value, least, most int, usage string) {
	*to = value
	usage = fmt.Sprintf("%s, %d to %d", usage, least, most)
	if value != 0 {
		usage += fmt.Sprintf(" (default %d)", value)
	}
	f.Func(name, usage, func(s string) error {
		v, err := strconv.Atoi(s)
		if err != nil || v < least || v > most {
			return fmt.Errorf("expected a number from %d to %d", least, most)
		}
		*to = v
		return nil
	})
}

// notEmpty refuses the value of a variable that the caller has not set.
func notEmpty(s string) error {
	if s == "" {
		return errors.New("expected a name, it is empty")
	}
	return nil
}

func checkGPUs(s string) error {
	if s == "" || pve.CheckGPUs(s) != nil {
		return errors.New("expected all, none, or a list of GPU numbers such as 0,1, UUIDs, PCI addresses or models such as \"RTX 3090\"")
	}
	return nil
}
