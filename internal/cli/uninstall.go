package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) uninstall() *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "remove the driver from a container",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
