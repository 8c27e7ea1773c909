package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) apply() *cobra.Command {
	return &cobra.Command{
		Use:   "apply",
		Short: "bring running containers into line now",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
