package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "find what is wrong and say what to do",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
