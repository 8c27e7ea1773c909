package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) disable() *cobra.Command {
	return &cobra.Command{
		Use:   "disable",
		Short: "undo what enable did",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
