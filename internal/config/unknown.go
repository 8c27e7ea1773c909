package config

import "strings"

// unknown reports a key of the whole node that does not exist, with what was
// probably meant, or else what may stand there.
func (p *tomlParser) unknown(name string) {
	section, short, dotted := strings.Cut(name, ".")
	if !dotted {
		section, short = "", name
	}
	var all, here []string
	for i := range keys {
		k := &keys[i]
		if k.scope == container {
			if k.short() == short {
				p.wrong(name, "is allowed in a section [containers.VMID] only", "")
				return
			}
			continue
		}
		all = append(all, k.name)
		if k.section() == section {
			here = append(here, k.short())
		}
	}
	guess := nearest(name, all)
	if !dotted {
		if near := nearest(name, sections()); near != "" {
			p.wrong(name, "unknown section, did you mean ["+near+"]?", "")
			return
		}
	}
	for _, other := range all { // the right key in the wrong section
		if guess == "" && strings.HasSuffix(other, "."+short) {
			guess = other
		}
	}
	switch {
	case guess != "":
		p.wrong(name, "unknown key, did you mean "+guess+"?", "")
	case len(here) > 0:
		p.wrong(name, "unknown key", strings.Join(here, ", "))
	default:
		p.wrong(name, "unknown key", "the sections "+strings.Join(sections(), ", ")+" and containers.VMID")
	}
}

// unknownFor does so for a key of one container: prefix is its section, rest the key in it.
func (p *tomlParser) unknownFor(prefix, rest string) {
	name := prefix + "." + rest
	var short, all []string
	for i := range keys {
		k := &keys[i]
		if k.scope == node {
			if k.short() == rest {
				p.wrong(name, "is set for the whole node, not for one container", k.name+" in ["+k.section()+"]")
				return
			}
			continue
		}
		all = append(all, k.name)
		if k.scope != dotted {
			short = append(short, k.short())
		}
	}
	if guess := nearest(rest, append(all, short...)); guess != "" {
		p.wrong(name, "unknown key, did you mean "+prefix+"."+guess+"?", "")
		return
	}
	p.wrong(name, "unknown key", strings.Join(short, ", "))
}

// nearest returns the candidate that s was probably meant to be, or "".
func nearest(s string, candidates []string) string {
	best, least := "", 3 // two slips at most
	if len(s) > 64 {
		return ""
	}
	for _, c := range candidates {
		if d := distance(s, c); d < least && d < len(c)/2 {
			best, least = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that lead from a to b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
