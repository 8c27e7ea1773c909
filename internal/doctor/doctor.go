// Package doctor finds out why containers do not get their GPU, and says what
// to do about it.
//
// It looks first (files of the node, of Proxmox, of the cache, of the state
// folder and of running containers) and judges then: each check is a function
// from facts to findings that reads nothing itself. What could not be looked at
// is a finding of its own: it is never taken for well or for wrong.
//
// Looking changes nothing, but for a file in the cache folder that is made and
// removed at once to try its locks, and for what the cache notes about a run
// file that a deep look has read.
package doctor

import (
	"cmp"
	"context"
	"fmt"
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

// Finding is what one check came to.
type Finding struct {
	Check string `json:"check"`
	VMID  int    `json:"vmid"` // 0: the host
	Level Level  `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"` // a command where there is one, else words
}

// Options say what to look at.
type Options struct {
	Config      *config.Config // nil when it has mistakes
	ConfigError error          // these mistakes
	Host        host.Host
	VMIDs       []int // none: the containers of this node that use the hook
	Deep        bool  // read the run files of the cache through and check their hashes
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
	h := lookHost(o.Host, node.Paths.State)
	guests := choose(c, o.Host.Root, h, o.VMIDs)
	facts := make([]guestFacts, len(guests))
	var group sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, g := range guests {
		free <- struct{}{}
		group.Go(func() {
			facts[i] = lookGuest(ctx, c, o.Host, h, g)
			<-free
		})
	}
	group.Wait()

	names := map[int]string{0: say.Clean(h.local, 100)}
	all := checkConfig(o, c)
	all = append(all, checkHost(h, facts)...)
	all = append(all, checkCache(lookCache(ctx, o.Host.Root, node, o.Deep), h, facts)...)
	for i := range all {
		all[i].VMID = 0
	}
	for _, f := range facts {
		names[f.vmid] = say.Clean(f.name, 100)
		for _, found := range checkGuest(h, f) {
			found.VMID = f.vmid
			all = append(all, found)
		}
	}
	for i := range all {
		// The one place that all texts pass, those of containers too.
		all[i].What, all[i].Fix = say.Clean(all[i].What, 1000), say.Clean(all[i].Fix, 1000)
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(a.VMID, b.VMID) })
	return Report{all, names}
}

// Problems reports whether anything is wrong.
func (r Report) Problems() bool { return count(r.Findings, Problem) > 0 }

func count(all []Finding, level Level) int {
	n := 0
	for _, f := range all {
		if f.Level == level {
			n++
		}
	}
	return n
}

// findings collects what one check finds.
type findings struct {
	check string
	list  []Finding
}

func (f *findings) add(level Level, fix, format string, args ...any) {
	f.list = append(f.list, Finding{Check: f.check, Level: level, What: fmt.Sprintf(format, args...), Fix: fix})
}

// orOK returns the findings, or that all is well when there are none.
func (f *findings) orOK(format string, args ...any) []Finding {
	if len(f.list) == 0 {
		f.add(OK, "", format, args...)
	}
	return f.list
}

func one(check string, level Level, fix, format string, args ...any) []Finding {
	f := findings{check: check}
	f.add(level, fix, format, args...)
	return f.list
}

const timeForm = "2006-01-02 15:04"

func when(t time.Time) string { return t.Local().Format(timeForm) }
