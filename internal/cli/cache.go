package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) cache() *cobra.Command {
	return &cobra.Command{
		Use:   "cache",
		Short: "list, fetch, add, verify and prune run files",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not here yet") },
	}
}
