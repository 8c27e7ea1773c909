package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) enable() *cobra.Command {
	return &cobra.Command{
		Use:   "enable",
		Short: "make containers follow the host's driver",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
