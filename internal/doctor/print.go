package doctor

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// Print writes findings for people, a group for the host and for each
// container. What is well is only counted, and what follows from another finding
// only named, unless verbose is true. Lines are broken to fit width columns; 0
// leaves them whole.
func (r Report) Print(w io.Writer, verbose, colour bool, width int) error {
	p := printer{w: w, verbose: verbose, colour: colour, width: width}
	for all := r.Findings; len(all) > 0; {
		end := slices.IndexFunc(all, func(f Finding) bool { return f.VMID != all[0].VMID })
		if end < 0 {
			end = len(all)
		}
		p.group(all[:end], r.Names)
		all = all[end:]
	}
	p.put(wrap("", summary(r.Findings), width))
	return p.err
}

type printer struct {
	w               io.Writer
	verbose, colour bool
	width           int
	err             error
}

func (p *printer) put(text string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, text)
	}
}

func (p *printer) group(group []Finding, names map[int]string) {
	title := names[group[0].VMID]
	switch vmid := group[0].VMID; {
	case vmid == 0:
		title = strings.TrimSpace("host " + title)
	case title == "":
		title = fmt.Sprintf("container %d", vmid)
	default:
		title = fmt.Sprintf("container %d (%s)", vmid, title)
	}
	p.put(title)
	shown := slices.DeleteFunc(slices.Clone(group), func(f Finding) bool { return !p.verbose && (f.Level == OK || f.Cause != "") })
	for i, f := range shown {
		p.finding(f.Level, f.Check+": "+f.What)
		// One fix for several findings stands once, after the last of them.
		again := i+1 < len(shown) && shown[i+1].Check == f.Check && shown[i+1].Fix == f.Fix
		if f.Fix != "" && !again {
			p.put(wrapFix("           fix: ", f.Fix, p.width))
		}
	}
	if !p.verbose {
		p.follow(group)
		if n := count(group, OK); n > 0 {
			p.finding(OK, say.Count(n, "check"))
		}
	}
	p.put("")
}

// follow names what follows from other findings, a line for each cause.
func (p *printer) follow(group []Finding) {
	var causes []string
	checks := map[string][]string{}
	for _, f := range group {
		if f.Cause == "" {
			continue
		}
		cause := strings.TrimPrefix(f.Fix, "see ")
		if !slices.Contains(causes, cause) {
			causes = append(causes, cause)
		}
		if !slices.Contains(checks[cause], f.Check) {
			checks[cause] = append(checks[cause], f.Check)
		}
	}
	for _, cause := range causes {
		p.finding("follows", fmt.Sprintf("from %s: %s", cause, strings.Join(checks[cause], ", ")))
	}
}

// finding writes a level in a column of its own and a text. Colour is what
// stands out, not what tells.
func (p *printer) finding(level Level, text string) {
	word := fmt.Sprintf("%-7s", level)
	lead := "  " + word + "  "
	code := map[Level]string{OK: "32", Problem: "1;31", Warning: "33", Unknown: "36"}[level]
	if text = wrap(lead, text, p.width); p.colour && code != "" {
		text = strings.Replace(text, word, "\x1b["+code+"m"+word+"\x1b[0m", 1)
	}
	p.put(text)
}

// wrap breaks a text between its words to fit width columns; 0 leaves it whole.
// It begins behind lead, and so do its further lines. No word is broken.
func wrap(lead, text string, width int) string {
	return fill(lead, strings.Fields(text), width)
}

// wrapFix keeps commands on one line where there is room: it breaks a text after a
// comma or the like if it can, and never in what stands in quotes.
func wrapFix(lead, text string, width int) string {
	var parts []string
	for _, clause := range pieces(text, func(word string) bool { return strings.TrimRight(word, ",;:") != word }) {
		if utf8.RuneCountInString(lead+clause) <= width {
			parts = append(parts, clause)
		} else {
			parts = append(parts, pieces(clause, func(string) bool { return true })...)
		}
	}
	return fill(lead, parts, width)
}

// fill writes parts behind lead, as many on a line as fit width columns.
func fill(lead string, parts []string, width int) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(lead))
	lines := []string{lead}
	for i, part := range parts {
		last := &lines[len(lines)-1]
		switch {
		case i == 0:
			*last += part
		case width > 0 && utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(part) > width:
			lines = append(lines, indent+part)
		default:
			*last += " " + part
		}
	}
	return strings.Join(lines, "\n")
}

// pieces splits a text after the words that end says, but not within quotes as
// a shell knows them.
func pieces(text string, end func(word string) bool) []string {
	var list []string
	piece, quoted := "", false
	for word := range strings.FieldsSeq(text) {
		piece = strings.TrimLeft(piece+" "+word, " ")
		// Only at the beginning of a word: the apostrophe of NVIDIA's is none.
		if rest, ok := strings.CutPrefix(word, "'"); ok {
			quoted, word = true, rest
		}
		quoted = quoted && !strings.Contains(word, "'")
		if !quoted && end(word) {
			list = append(list, piece)
			piece = ""
		}
	}
	if piece != "" {
		list = append(list, piece)
	}
	return list
}

// summary is such as "2 problems, 1 warning, 1 unknown, 12 ok".
func summary(all []Finding) string {
	follow := 0
	for _, f := range all {
		if f.Cause != "" {
			follow++
		}
	}
	text := fmt.Sprintf("%s, %s, %d unknown, %d ok", say.Count(count(all, Problem), "problem"), say.Count(count(all, Warning), "warning"), count(all, Unknown), count(all, OK))
	switch follow {
	case 0:
		return text
	case 1:
		return text + "; 1 more follows from these"
	}
	return fmt.Sprintf("%s; %d more follow from these", text, follow)
}
