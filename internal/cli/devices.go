package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) devices() *cobra.Command {
	return &cobra.Command{
		Use:   "devices",
		Short: "make the host's device nodes exist",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
