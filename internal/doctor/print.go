package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Print writes findings for people, a group for the host and for each
// container. What is well is only counted unless verbose is true.
func (r Report) Print(w io.Writer, verbose, colour bool) error {
	p := printer{w: w, colour: colour}
	all := r.Findings
	for i := 0; i < len(all); {
		end := i
		for end < len(all) && all[end].VMID == all[i].VMID {
			end++
		}
		p.group(all[i:end], r.Names, verbose)
		i = end
	}
	p.line("%s", summary(all))
	return p.err
}

type printer struct {
	w      io.Writer
	colour bool
	err    error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) group(group []Finding, names map[int]string, verbose bool) {
	title := names[group[0].VMID]
	switch vmid := group[0].VMID; {
	case vmid == 0:
		title = strings.TrimSpace("host " + title)
	case title == "":
		title = fmt.Sprintf("container %d", vmid)
	default:
		title = fmt.Sprintf("container %d (%s)", vmid, title)
	}
	p.line("%s", title)
	var shown []Finding
	for _, f := range group {
		if f.Level != OK || verbose {
			shown = append(shown, f)
		}
	}
	for i, f := range shown {
		p.line("  %s  %s: %s", p.level(f.Level), f.Check, f.What)
		// One fix for several findings stands once, after the last of them.
		again := i+1 < len(shown) && shown[i+1].Check == f.Check && shown[i+1].Fix == f.Fix
		if f.Fix != "" && !again {
			p.line("  %7s  fix: %s", "", f.Fix)
		}
	}
	if n := count(group, OK); n > 0 && !verbose {
		p.line("  %s  %s", p.level(OK), checks(n))
	}
	p.line("")
}

func checks(n int) string {
	if n == 1 {
		return "1 check"
	}
	return fmt.Sprintf("%d checks", n)
}

// level is the word in a column of its own; colour is what stands out, not what tells.
func (p *printer) level(l Level) string {
	word := fmt.Sprintf("%-7s", l)
	code := map[Level]string{OK: "32", Problem: "1;31", Warning: "33", Unknown: "36"}[l]
	if !p.colour {
		return word
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

// summary is such as "2 problems, 1 warning, 1 unknown, 12 ok".
func summary(all []Finding) string {
	var words []string
	for _, l := range []Level{Problem, Warning} {
		switch n := count(all, l); n {
		case 1:
			words = append(words, "1 "+string(l))
		default:
			words = append(words, fmt.Sprintf("%d %ss", n, l))
		}
	}
	for _, l := range []Level{Unknown, OK} {
		words = append(words, fmt.Sprintf("%d %s", count(all, l), l))
	}
	return strings.Join(words, ", ")
}
