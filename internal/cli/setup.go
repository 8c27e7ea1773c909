package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/doctor"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) setup() *cobra.Command {
	var s guide
	c := &cobra.Command{
		Use:   "setup [VMID...]",
		Short: "choose containers and enable them, step by step",
		Long: `Show the host's driver and GPUs and the containers of this node, ask which
containers to enable, say what will be changed, and change it when you agree. At
the end doctor checks the result. It does nothing that enable and doctor do not
do, and can be run again at any time.

Containers that use a GPU already are suggested: those that have NVIDIA devices,
by devN or mount entries, and running ones with driver packages of their
distribution, which apply --replace-packages then replaces. They keep the GPUs
they have. Others get the GPUs that the configuration names, else the ones you
choose, else all. Another hookscript of a container is kept and runs after this
one (enable --chain).

With --yes nothing is asked: the VMIDs that are given are enabled, or without
VMIDs the containers that have NVIDIA devices. The exit status is 1 if a
container could not be enabled; what doctor finds does not change it.`,
		Example: `  pve-nvidia-hook setup
  pve-nvidia-hook setup 101 102 --yes   ask nothing, for scripts
  pve-nvidia-hook setup --dry-run       say what would be changed`,
		Args: args(0, -1, "VMIDs"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			s.app, s.out, s.chosen = a, say.Lines(c.OutOrStdout()), ids
			if !s.yes && isTerminal(os.Stdin) {
				s.in = bufio.NewReader(os.Stdin)
			} else if !s.yes && !s.dryRun {
				return usage{errors.New("setup asks questions and needs a terminal; in a script use --yes")}
			}
			return s.run(c.Context())
		},
	}
	wordFlag(c.Flags(), &s.gpus, "gpus", checkGPUs, "`which` GPUs for the chosen containers, as in enable")
	c.Flags().BoolVar(&s.yes, "yes", false, "ask nothing")
	c.Flags().BoolVar(&s.dryRun, "dry-run", false, "say what would be changed, change nothing")
	return c
}

// guide is one run of setup.
type guide struct {
	*app
	in     *bufio.Reader // nil: nothing is asked
	out    io.Writer
	chosen []int
	gpus   string
	yes    bool
	dryRun bool
}

func (s *guide) run(ctx context.Context) error {
	conf, err := s.load()
	if err != nil {
		return err
	}
	if err := pve.CheckNode(s.host.Root); err != nil {
		return err
	}
	cards, err := s.showHost()
	if err != nil {
		return err
	}
	guests := here(s.host.Root)
	obstacles := s.obstacles(ctx, guests)
	s.showContainers(guests, obstacles)
	if err := s.choose(ctx, guests, obstacles); err != nil {
		return err
	}
	if len(s.chosen) == 0 {
		fmt.Fprintln(s.out, "no container was chosen, nothing was changed; to enable one: pve-nvidia-hook setup VMID")
		return nil
	}
	groups, err := s.groups(ctx, conf, guests, cards)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	lines := &once{out: s.out}
	preview := io.Writer(lines)
	if s.yes && !s.dryRun {
		preview = io.Discard
	}
	if err := s.enableGroups(ctx, groups, true, preview); err != nil {
		return err
	}
	var replace []int
	for _, f := range obstacles {
		switch {
		case !slices.Contains(s.chosen, f.VMID):
		case packages(f):
			fmt.Fprintf(preview, "container %d: note: %s: they stay until apply --replace-packages\n", f.VMID, f.What)
			replace = append(replace, f.VMID)
		default:
			fmt.Fprintf(preview, "container %d: warning: %s: %s\n", f.VMID, f.What, f.Fix)
		}
	}
	fmt.Fprintln(preview, "note: the driver is installed in each container; to have one use the node's instead, mounted read-only, afterwards: pve-nvidia-hook enable VMID --share")
	if s.dryRun {
		return nil
	}
	if s.in != nil {
		answer, err := s.ask(ctx, "Make these changes? yes or no", "no", yesOrNo)
		if err != nil {
			return err
		}
		if answer[0] != 'y' {
			fmt.Fprintln(s.out, "nothing was changed")
			return nil
		}
	}
	failed := s.enableGroups(ctx, groups, false, lines)
	fmt.Fprintln(s.out)
	s.doctor(ctx, nil, s.chosen)
	fmt.Fprintln(s.out)
	if lines.next {
		settings, _ := conf.For(0) // mistakes were told when the containers were looked at
		fmt.Fprintln(s.out, pve.Next(s.chosen, func(vmid int) bool { return runs(ctx, settings.Paths.LXC, vmid) }))
	}
	if len(replace) > 0 {
		fmt.Fprintf(s.out, "%sreplace the driver packages: pve-nvidia-hook apply %s --replace-packages\n", pve.NextPrefix, numbers(replace))
	}
	fmt.Fprintf(s.out, "then see: pve-nvidia-hook status %s\n", numbers(s.chosen))
	return failed
}

// choose fills in the containers to enable.
func (s *guide) choose(ctx context.Context, guests []pve.Guest, obstacles []doctor.Finding) error {
	if len(s.chosen) > 0 {
		return nil
	}
	var all, suggested []int
	for _, g := range guests {
		all = append(all, g.VMID)
		uses := len(g.Conf.NextNodes()) > 0 || !s.yes && slices.ContainsFunc(obstacles, func(f doctor.Finding) bool { return f.VMID == g.VMID && packages(f) })
		if g.Err == nil && uses && !pve.Ours(g.Conf.Next().Hookscript) {
			suggested = append(suggested, g.VMID)
		}
	}
	if s.in == nil || len(all) == 0 {
		s.chosen = suggested
		return nil
	}
	_, err := s.ask(ctx, "Enable which containers? VMIDs, all or none", cmp.Or(numbers(suggested), "none"), func(answer string) error {
		switch answer {
		case "none":
			s.chosen = nil
			return nil
		case "all":
			s.chosen = all
			return nil
		}
		ids, err := vmids(strings.Fields(strings.ReplaceAll(answer, ",", " ")))
		for _, id := range ids {
			if !slices.Contains(all, id) {
				err = errors.Join(err, fmt.Errorf("there is no container %d on this node", id))
			}
		}
		s.chosen = ids
		return err
	})
	return err
}

// groups sorts the chosen containers by what enable --gpus is for them; "" leaves
// it to enable.
func (s *guide) groups(ctx context.Context, conf *config.Config, guests []pve.Guest, cards []host.GPU) ([]group, error) {
	var groups []group
	asked := s.gpus
	for _, id := range s.chosen {
		gpus := s.gpus
		set, err := conf.For(id)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(guests, func(g pve.Guest) bool { return g.VMID == id })
		free := i >= 0 && set.Origin("gpus") == "default" && !pve.Ours(guests[i].Conf.Next().Hookscript)
		if gpus == "" && free {
			gpus = cardsOf(guests[i].Conf, cards)
		}
		if gpus == "" && free && len(cards) > 1 && s.in != nil {
			if asked == "" {
				asked, err = s.ask(ctx, "Which GPUs for containers that have none? all, or numbers such as 0,1", "all", checkGPUs)
			}
			if err != nil {
				return nil, err
			}
			gpus = asked
		}
		groups = into(groups, gpus, id)
	}
	return groups, nil
}

// cardsOf names the cards that a container has already, as enable --gpus takes them.
func cardsOf(c pve.Conf, cards []host.GPU) string {
	var has []string
	for _, g := range cards {
		if slices.Contains(c.NextNodes(), g.Node()) {
			has = append(has, cmp.Or(g.UUID, g.Address))
		}
	}
	return strings.Join(has, ",")
}

func (s *guide) enableGroups(ctx context.Context, groups []group, dryRun bool, out io.Writer) error {
	var errs []error
	for _, g := range groups {
		errs = append(errs, s.enableAll(ctx, pve.Options{GPUs: g.gpus, Chain: true, DryRun: dryRun}, nil, g.ids, out))
	}
	return errors.Join(errs...)
}

// ask asks until the answer is good; an empty one is preset.
func (s *guide) ask(ctx context.Context, question, preset string, good func(string) error) (string, error) {
	for {
		fmt.Fprintf(s.out, "%s [%s]: ", question, preset)
		var line string
		read := make(chan error, 1)
		go func() {
			var err error
			line, err = s.in.ReadString('\n')
			read <- err
		}()
		var err error
		select {
		case err = <-read:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil { // the terminal's end, or Ctrl-C
			fmt.Fprintln(s.out)
			return "", hint.Errorf("nothing was changed; run it again", "setup: interrupted")
		}
		answer := cmp.Or(strings.ToLower(strings.TrimSpace(line)), preset)
		if err := good(answer); err == nil {
			return answer, nil
		} else {
			fmt.Fprintf(s.out, "%v\n", err)
		}
	}
}

func yesOrNo(answer string) error {
	if slices.Contains([]string{"yes", "y", "no", "n"}, answer) {
		return nil
	}
	return errors.New("expected yes, y, no, n")
}

// numbers is such as "101 102".
func numbers(ids []int) string {
	var words []string
	for _, id := range ids {
		words = append(words, strconv.Itoa(id))
	}
	return strings.Join(words, " ")
}
