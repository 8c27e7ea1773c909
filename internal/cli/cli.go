// Package cli is the command line: everything that a person types.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// app is what the commands share: the global flags and what follows from them.
type app struct {
	configFile string
	logLevel   string
	logFormat  string
	log        say.Log
	host       host.Host
}

// exit ends a command that has said why itself, or whose worker has.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

const errSaid = exit(1)

// usage marks a mistake in what was typed: exit status 2.
type usage struct{ error }

// Main runs a command line and returns its exit status: 0 done, 1 failed or
// problems found, 2 wrong usage.
func Main(ctx context.Context, args []string) int {
	a := &app{}
	root := a.root()
	strict(root)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var wrong usage
	var done exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &done):
		return int(done)
	}
	log, logErr := say.New(os.Stderr, a.logFormat, "")
	if logErr != nil { // the format is what is wrong
		log, _ = say.New(os.Stderr, "text", "")
	}
	log.Fail(err)
	if errors.As(err, &wrong) {
		return 2
	}
	return 1
}

// Root returns the command tree.
func Root() *cobra.Command { return (&app{}).root() }

func (a *app) root() *cobra.Command {
	itsVersion := false
	root := &cobra.Command{
		Use:   say.Program + " VMID PHASE",
		Short: "keep NVIDIA's user space in LXC containers equal to the host's kernel module",
		Long: `pve-nvidia-hook is a hookscript of Proxmox VE for LXC containers. When a
container starts, it installs the user space of NVIDIA's driver in it, with
exactly the version of the host's kernel module, verifies it with nvidia-smi
and records it, so that the next start has nothing to do.

Proxmox calls it with a VMID and a phase. The commands below are for
administrators:`,
		Example: `  pve-nvidia-hook setup                  choose containers, step by step
  pve-nvidia-hook enable 101 --gpus all  make container 101 follow the host
  pve-nvidia-hook status                 wanted and installed driver versions
  pve-nvidia-hook doctor 101             what is wrong, and what to do about it`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		// The call by Proxmox has no flags.
		DisableFlagsInUseLine: true,
		Args:                  known,
		RunE: func(c *cobra.Command, _ []string) error {
			if itsVersion { // cobra's own flag says it in other words than the command
				printVersion(c)
				return nil
			}
			return c.Help()
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := a.prepare(); err != nil {
				return err
			}
			if err := checkRoot(c, a.host.Root, os.Geteuid()); err != nil {
				return err
			}
			return a.inWorker(c)
		},
	}
	flags := root.PersistentFlags()
	wordFlag(flags, &a.configFile, "config", notEmpty, "configuration `file`, also by $"+hook.EnvConfig+"\n(default "+config.DefaultFile+")")
	flags.StringVar(&a.logLevel, "log-level", "", "debug, info, warning or error")
	flags.StringVar(&a.logFormat, "log-format", "text", "text or json")
	root.Flags().BoolVarP(&itsVersion, "version", "v", false, "version for "+say.Program)
	root.SetUsageFunc(showUsage)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	root.AddCommand(
		a.status(), a.doctor(), a.apply(), a.replay(), a.uninstall(),
		a.setup(), a.enable(), a.disable(), a.devices(),
		a.cache(), a.config(), a.version(),
	)
	a.complete(root)
	return root
}

// strict has the commands that cobra brings refuse a mistyped command, as ours do.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, words []string) error {
				found, rest, err := root.Find(words)
				if err == nil && found.HasSubCommands() {
					err = known(found, rest)
				}
				return err
			}
		case "completion":
			c.Args = known
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

// known refuses a mistyped command and suggests the right one.
func known(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if _, err := vmid.Parse(args[0]); err == nil {
		return usage{fmt.Errorf("a hookscript call is a VMID and a phase, without flags; by hand: %s replay %s post-start", say.Program, args[0])}
	}
	if args[0] == "" { // every command begins with it; a variable of the caller's was empty
		_, err := vmid.Parse(args[0])
		return usage{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	}
	text := fmt.Sprintf("unknown command %q", say.Clean(args[0], 40))
	c.SuggestionsMinimumDistance = 2 // two letters wrong, or two swapped
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage{fmt.Errorf("%s (see %s --help)", text, c.CommandPath())}
}

// args is cobra.RangeArgs with our words and exit status; most -1 is any number.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			got := ""
			if len(args) > 0 {
				got = fmt.Sprintf(", got %s", say.Count(len(args), "argument"))
			}
			return usage{fmt.Errorf("expected %s%s (see %s --help)", what, got, c.CommandPath())}
		}
		return nil
	}
}

func (a *app) prepare() error {
	log, err := say.New(os.Stderr, a.logFormat, a.logLevel)
	if err != nil {
		return usage{err}
	}
	a.log = log
	if a.configFile == "" {
		a.configFile = os.Getenv(hook.EnvConfig)
	}
	a.host = host.Host{Root: os.Getenv(hook.EnvHostRoot)}
	return nil
}

func (a *app) load() (*config.Config, error) {
	return hook.LoadConfig(a.configFile)
}

func vmids(words []string) ([]int, error) {
	var ids []int
	for _, w := range words {
		id, err := vmid.Parse(w)
		if err != nil {
			return nil, usage{err}
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

var errNamesOrAll = usage{errors.New("name the containers, or give --all instead")}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the program's version",
		Args:  args(0, 0, "no arguments"),
		Run:   func(c *cobra.Command, _ []string) { printVersion(c) },
	}
}

func printVersion(c *cobra.Command) { fmt.Fprintln(c.OutOrStdout(), say.Program, version.Program) }
