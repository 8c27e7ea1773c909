// Package doctor finds out why containers do not get their GPU, and says what
// to do about it.
//
// A check is one entry of a table: see check. The help of the command is made
// from the same table. What a running container shows is collected first, within
// a deadline, and judged then; checks of the node read their files below the
// host's root themselves. What could not be looked at is a finding of its own:
// it is never taken for well or for wrong.
//
// Looking changes nothing, except for a file in the cache folder that is made and
// removed at once to try its locks.
package doctor

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Level is how a finding is to be taken.
type Level string

// The levels. Only a problem makes the command fail.
const (
	OK      Level = "ok"
	Problem Level = "problem" // something does not work, or will not at the next start
	Warning Level = "warning" // works, but not for everybody or not for long
	Unknown Level = "unknown" // could not be looked at
)

// bad orders levels: the higher, the worse.
func (l Level) bad() int { return slices.Index([]Level{OK, Unknown, Warning, Problem}, l) }

// Finding is what one check came to.
type Finding struct {
	Check string `json:"check"`
	VMID  int    `json:"vmid"` // 0: the host
	Level Level  `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"`   // a command where there is one, else words
	Cause string `json:"cause,omitempty"` // the check, of the same container or of the host, whose finding explains this one

	after []string // checks that can explain it
	root  *Finding // the finding of Cause
}

// Options say what to look at.
type Options struct {
	Config      *config.Config // nil when it has mistakes
	ConfigError error          // these mistakes
	Host        host.Host
	VMIDs       []int // none: the containers of this node that use the hook
}

// atOnce is how many containers are looked at at the same time.
const atOnce = 8

// Report is what Examine has found.
type Report struct {
	Findings []Finding      // of the host first, then of the containers by VMID
	Names    map[int]string // of the containers, and of the host as 0
}

// Examine looks at the host and its containers.
func Examine(ctx context.Context, o Options) Report {
	c := o.Config
	if c == nil {
		c = &config.Config{} // the defaults: better to look there than nowhere
	}
	node, _ := c.For(0) // its folders hold, whatever else is wrong
	h := lookHost(o, c, node)
	guests := choose(c, o.Host.Root, h, o.VMIDs)
	h.guests = make([]guestFacts, len(guests))
	var group sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, g := range guests {
		free <- struct{}{}
		group.Go(func() {
			h.guests[i] = lookGuest(ctx, c, o.Host, h, g)
			<-free
		})
	}
	group.Wait()
	h.cache = lookCache(o.Host.Root, node)
	h.persistence = lookPersistence(ctx, h)

	names := map[int]string{0: say.Clean(h.local, 100)}
	for _, g := range h.guests {
		names[g.vmid] = say.Clean(g.name, 100)
	}
	return Report{judge(h), names}
}

// judge runs the checks, those of the node first.
func judge(h hostFacts) []Finding {
	var all []Finding
	for _, c := range table() {
		if c.where == onNode {
			all = append(all, c.on(&h, &guestFacts{})...)
		}
	}
	guests := slices.SortedFunc(slices.Values(h.guests), func(a, b guestFacts) int { return cmp.Compare(a.vmid, b.vmid) })
	for _, g := range guests {
		all = append(all, judgeGuest(h, g)...)
	}
	fold(all)
	for i := range all {
		// The one place that all texts pass, those of containers too.
		all[i].What, all[i].Fix = say.Clean(all[i].What, 1000), say.Clean(all[i].Fix, 1000)
	}
	return all
}

// judgeGuest runs the checks of one container.
func judgeGuest(h hostFacts, g guestFacts) []Finding {
	var all []Finding
	for _, c := range table() {
		if !c.applies(g) {
			continue
		}
		found := c.on(&h, &g)
		all = append(all, found...)
		if c.alone && len(found) > 0 {
			break
		}
	}
	return all
}

// fold finds for each finding the one that explains it, so that a cause is told
// once: what follows from it needs no fix of its own. Causes stand before what
// follows from them, as in the table.
func fold(all []Finding) {
	type key struct {
		vmid  int
		check string
	}
	worst := map[key]*Finding{}
	for i := range all {
		f := &all[i]
		if f.Level == OK {
			continue
		}
		for _, name := range f.after {
			cause := cmp.Or(worst[key{0, name}], worst[key{f.VMID, name}])
			if cause == nil || cause.Level == Unknown && f.Level != Unknown {
				continue
			}
			f.root = cmp.Or(cause.root, cause)
			f.Cause, f.Fix = f.root.Check, "see "+f.root.Check
			if f.root.VMID != f.VMID {
				f.Fix += " of the host"
			}
			if f.Level == Problem {
				f.root.Level = Problem // for something does not work
			}
			break
		}
		if k := (key{f.VMID, f.Check}); worst[k] == nil || f.Level.bad() > worst[k].Level.bad() {
			worst[k] = f
		}
	}
}

// Problems reports whether anything is wrong.
func (r Report) Problems() bool { return count(r.Findings, Problem) > 0 }

// count counts the findings of a level, without those that follow from others.
func count(all []Finding, level Level) int {
	n := 0
	for _, f := range all {
		if f.Level == level && f.Cause == "" {
			n++
		}
	}
	return n
}

const timeForm = "2006-01-02 15:04"

func when(t time.Time) string { return t.Local().Format(timeForm) }
