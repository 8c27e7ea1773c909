package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/doctor"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

// showHost prints the driver and the cards, without which there is nothing to set up.
func (s *guide) showHost() ([]host.GPU, error) {
	v, err := s.host.Module()
	if err == nil && v == "" {
		err = hint.Errorf("install NVIDIA's driver on the host first; pve-nvidia-hook doctor says more", "NVIDIA's kernel module is not loaded on this host")
	}
	if err != nil {
		return nil, err
	}
	cards := host.ReadGPUs(s.host.Root)
	if len(cards) == 0 {
		return nil, errNoCard
	}
	fmt.Fprintf(s.out, "Host: NVIDIA driver %s\n", v)
	for _, g := range cards {
		fmt.Fprintf(s.out, "  %s\n", g)
	}
	return cards, nil
}

func (s *guide) showContainers(guests []pve.Guest, obstacles []doctor.Finding) {
	fmt.Fprintln(s.out, "Containers:")
	for _, g := range guests {
		what := "no GPU"
		nodes, hookscript := g.Conf.NextNodes(), g.Conf.Next().Hookscript
		switch {
		case g.Err != nil:
			what = g.Err.Error()
		case pve.Ours(hookscript):
			what = "enabled"
		case len(nodes) > 0:
			what = "has " + strings.Join(nodes, ", ")
		}
		if hookscript != "" && !pve.Ours(hookscript) {
			what += "; hookscript " + hookscript
		}
		for _, f := range obstacles {
			if f.VMID == g.VMID {
				what += "; " + f.What
			}
		}
		fmt.Fprintf(s.out, "  %s: %s\n", g, what)
	}
}

// obstacles is what doctor finds in running containers that keeps NVIDIA's installer
// from working, such as driver packages of the distribution.
func (s *guide) obstacles(ctx context.Context, guests []pve.Guest) []doctor.Finding {
	var ids []int
	for _, g := range guests {
		ids = append(ids, g.VMID)
	}
	if len(ids) == 0 {
		return nil
	}
	var out bytes.Buffer
	s.doctor(ctx, &out, ids, "--json")
	var all, found []doctor.Finding
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		s.log.Warnf("what is in the containers is not known: %v", err)
	}
	for _, f := range all {
		if f.Check == "obstacles" && f.Level == doctor.Problem {
			found = append(found, f)
		}
	}
	return found
}

// packages reports whether a finding is about driver packages of the distribution.
func packages(f doctor.Finding) bool { return strings.Contains(f.Fix, "--replace-packages") }

// doctor runs that command, in a worker, since containers may hold up who looks
// into them. What it finds is no failure of setup. A nil out is this terminal.
func (s *guide) doctor(ctx context.Context, out io.Writer, ids []int, flags ...string) {
	words := append(append([]string{"doctor"}, strings.Fields(numbers(ids))...), flags...)
	if s.configFile != "" {
		words = append(words, "--config", s.configFile)
	}
	if _, err := worker.Do(ctx, worker.Job{Args: words, Out: out}); err != nil {
		s.log.Warnf("doctor: %v", err)
	}
}

// once passes on each line a single time: what a preview has said is not said
// again. It keeps back the next steps, of which setup has a line of its own.
type once struct {
	out  io.Writer
	said map[string]bool
	next bool // there was one
}

// Write takes whole lines.
func (o *once) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if o.said[line] {
			continue
		}
		if o.said == nil {
			o.said = map[string]bool{}
		}
		o.said[line] = true
		if strings.HasPrefix(line, pve.NextPrefix) {
			o.next = true
		} else if _, err := io.WriteString(o.out, line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
