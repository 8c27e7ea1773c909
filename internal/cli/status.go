package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "print wanted and installed version of every container",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
