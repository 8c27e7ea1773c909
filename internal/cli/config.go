package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) config() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "check the configuration and show the settings of a container",
		Long: `The files are read in this order, and later ones override earlier ones:
built-in defaults, what enable --docker has noted, /etc/pve/pve-nvidia-hook.toml
for the cluster, Phoenix files if the configuration names them, and
/etc/pve-nvidia-hook/config.toml. A section
[containers.VMID] overrides what is set for all containers.`,
		Args: known,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.configCheck(), a.configShow())
	return c
}

func (a *app) configCheck() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [VMID]",
		Short: "report every mistake of every configuration file",
		Long: `Read all configuration files as the hook does and report every mistake at once,
each with its file and line: unknown keys, impossible values, and settings of a
container that contradict each other. With a VMID, only the contradictions of
that container are reported. The exit status is
1 when there is a mistake.

The JSON is a list of objects with file, line (absent: the file as a whole),
key, what (is wrong) and allowed (instead); it is empty when there is no
mistake.`,
		Example: "  pve-nvidia-hook config check --config /root/new.toml\n  pve-nvidia-hook config check 101 --json",
		Args:    args(0, 1, "at most one VMID"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			conf, err := a.load()
			switch {
			case err != nil:
			case len(ids) == 1:
				_, err = conf.For(ids[0])
			default:
				err = conf.Check()
			}
			if asJSON {
				return mistakesJSON(c.OutOrStdout(), err)
			}
			if mistakes := (config.Mistakes{}); errors.As(err, &mistakes) {
				return hint.Wrap(err, "correct what is named, and check again")
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the configuration has no mistakes")
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of the mistakes")
	return c
}

// mistakesJSON writes the mistakes that err holds.
func mistakesJSON(w io.Writer, err error) error {
	mistakes := config.Mistakes{}
	if err != nil && !errors.As(err, &mistakes) {
		return err
	}
	if err := say.JSON(w, mistakes); err != nil {
		return err
	}
	if len(mistakes) > 0 {
		return errSaid
	}
	return nil
}

func (a *app) configShow() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [VMID]",
		Short: "print every setting with its origin",
		Long: `Print every setting of a container, or of containers that no file names, with
the file and line that it comes from. Credentials in URLs are not shown. The
exit status is 1 if no container has the VMID and no file names it.`,
		Example: "  pve-nvidia-hook config show\n  pve-nvidia-hook config show 101 --json",
		Args:    args(0, 1, "at most one VMID"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			conf, err := a.load()
			if err != nil {
				return err
			}
			vmid := 0
			if len(ids) == 1 {
				vmid = ids[0]
			}
			if err := a.noGuest(conf, vmid); err != nil {
				return err
			}
			settings, err := conf.For(vmid)
			if err != nil {
				return err
			}
			rows := settings.Rows()
			if asJSON {
				return say.JSON(c.OutOrStdout(), rows)
			}
			width, _ := screen(os.Stdout)
			printSettings(c.OutOrStdout(), rows, width)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// noGuest says that neither the cluster nor the configuration knows a container,
// nil where it is known or that cannot be told.
func (a *app) noGuest(conf *config.Config, vmid int) error {
	if vmid == 0 || slices.Contains(conf.Containers(), vmid) || hook.NeedsRoot("", a.host.Root, os.Geteuid()) != nil {
		return nil
	}
	g, found, err := pve.Find(a.host.Root, vmid)
	switch {
	case found && g.VM:
		return g.NotHere("")
	case found, err != nil && !errors.Is(err, pve.ErrNoNode):
		return nil
	}
	return a.containers(conf).missing(vmid)
}

// printSettings writes settings as a configuration file has them, each with its
// origin: behind it, or on a line above where the terminal is too narrow.
func printSettings(out io.Writer, rows []config.Row, width int) {
	for _, r := range rows {
		text, from := r.Key+" = "+say.Clean(r.Text(), 300), "# "+r.Origin
		list, _ := r.Value.([]string)
		if len(list) > 1 {
			text = r.Key + " = ["
		}
		if width == 0 || columns(text+"  "+from) <= width {
			fmt.Fprintln(out, text+"  "+from)
		} else {
			fmt.Fprintln(out, from+"\n"+text)
		}
		if len(list) > 1 {
			for _, member := range list {
				fmt.Fprintln(out, "    "+say.Clean(strconv.Quote(member), 300)+",")
			}
			fmt.Fprintln(out, "]")
		}
	}
}
