package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// check is one entry of the table. To add one, write its entry into the list of
// the file where it belongs: hostChecks, nodeChecks, cardChecks, cacheChecks, guestChecks,
// entryChecks, shareChecks, insideChecks or useChecks. The help and man pages follow.
type check struct {
	name  string
	about string // what holds when it is ok, for the help page
	where place
	// after names checks whose findings explain those of this one. They stand
	// before it in the table.
	after []string
	alone bool // what it finds makes the checks after it pointless
	run   func(h *hostFacts, g *guestFacts, out *findings)
}

// place is what a check looks at.
type place int

const (
	onNode   place = iota
	ofGuest        // each container
	ofWanted       // each container that should have a driver, or may be meant to
	inside         // each of these that runs
)

// table lists all checks in the order in which they are run.
func table() []check {
	return slices.Concat(hostChecks(), cardChecks(), nodeChecks(), cacheChecks(), guestChecks(), entryChecks(), shareChecks(), insideChecks(), useChecks())
}

// applies reports whether a check looks at this container.
func (c check) applies(g guestFacts) bool {
	switch c.where {
	case ofGuest:
		return true
	case ofWanted:
		return !g.unwanted()
	case inside:
		return !g.unwanted() && g.inside != nil
	}
	return false
}

func (c check) on(h *hostFacts, g *guestFacts) []Finding {
	c.after = slices.DeleteFunc(slices.Clone(c.after), func(other string) bool { return !g.explains(h, other) })
	out := findings{check: c, vmid: g.vmid}
	c.run(h, g, &out)
	return out.list
}

// findings collects what one check finds.
type findings struct {
	check check
	vmid  int
	list  []Finding
}

func (f *findings) add(level Level, fix, format string, args ...any) {
	f.list = append(f.list, Finding{Check: f.check.name, VMID: f.vmid, Level: level, What: fmt.Sprintf(format, args...), Fix: fix, after: f.check.after})
}

// follows says of what has just been added which checks can explain it: others
// than for the rest of the check, or none.
func (f *findings) follows(checks ...string) { f.list[len(f.list)-1].after = checks }

// orOK adds that all is well when nothing was found.
func (f *findings) orOK(format string, args ...any) {
	if len(f.list) == 0 {
		f.add(OK, "", format, args...)
	}
}

// Help describes the checks, for the help page.
func Help() string {
	var b strings.Builder
	for _, part := range []struct {
		title string
		where []place
	}{
		{"Of the host", []place{onNode}},
		{"Of each container", []place{ofGuest, ofWanted}},
		{"Of each running container", []place{inside}},
	} {
		fmt.Fprintf(&b, "\n\n%s:\n", part.title)
		for _, c := range table() {
			if slices.Contains(part.where, c.where) {
				lead := fmt.Sprintf("    %-16s ", c.name)
				b.WriteString("\n" + wrap(lead, c.about, 79))
			}
		}
	}
	return strings.TrimSpace(b.String())
}
