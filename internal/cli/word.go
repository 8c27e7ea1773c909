package cli

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
)

// word is a flag's value that is checked when it is read, before anything else.
// One that was given is never empty: a variable of the caller's may have been.
type word struct {
	to    *string
	check func(string) error
}

func wordFlag(f *pflag.FlagSet, to *string, name string, check func(string) error, usage string) {
	f.Var(word{to, check}, name, usage)
}

func (w word) Set(s string) error {
	if err := w.check(s); err != nil {
		return err
	}
	*w.to = s
	return nil
}

func (w word) String() string {
	if w.to == nil { // pflag asks a zero one
		return ""
	}
	return *w.to
}

func (word) Type() string { return "string" }

func notEmpty(s string) error {
	if s == "" {
		return errors.New("expected a name, it is empty")
	}
	return nil
}

func checkGPUs(s string) error {
	if s == "" || pve.CheckGPUs(s) != nil {
		return errors.New("expected all, none, or a list of numbers, UUIDs, PCI addresses or models")
	}
	return nil
}
