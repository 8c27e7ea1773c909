package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
)

// screen says how wide a terminal is and whether it shall have colours; width 0
// is no terminal: nothing is cut.
func screen(f *os.File) (width int, colour bool) {
	if !isTerminal(f) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	// https://no-color.org: set and not empty.
	return width, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// wide is from which width on a line has room for a date and a reason.
const wide = 120

// printStatus writes the table of status: one line a container. Where the
// terminal is too narrow for reasons, that of a problem stands on a line below.
func printStatus(w io.Writer, rows []statusRow, now time.Time, width int, colour bool) error {
	narrow := width > 0 && width < wide
	head := []string{"", "VMID", "NAME", "RUNNING", "WANTED", "INSTALLED", "TOOLKIT", "LAST RUN", "RESULT", "REASON"}
	if narrow {
		head = head[:9]
	}
	lines := [][]string{head}
	for _, r := range rows {
		lines = append(lines, r.cells(now, narrow)[:len(head)])
	}
	fit(lines, width)
	widths := make([]int, len(head))
	for i := range widths {
		widths[i] = widest(lines, i)
	}
	var out bytes.Buffer
	lead := 1 + 2*(len(head)-2) // the gaps before the reason
	for _, w := range widths[:len(widths)-1] {
		lead += w
	}
	for i, cells := range lines {
		if i > 0 && !narrow && width > lead {
			cells[len(head)-1] = cutReason(rows[i-1].Reason, width-lead, rows[i-1].VMID)
		}
		problem := i > 0 && !rows[i-1].OK
		text := []string{cut(line(cells, widths), width)}
		if problem && narrow {
			text = append(text, "    "+cutReason(rows[i-1].Reason, max(1, width-4), rows[i-1].VMID))
		}
		for _, t := range text {
			if colour && problem {
				t = "\x1b[1;31m" + t + "\x1b[0m"
			}
			fmt.Fprintln(&out, t)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

func (r statusRow) cells(now time.Time, narrow bool) []string {
	mark, running, last, result := "", "no", "never", "-"
	if !r.OK {
		mark = "!"
	}
	if r.Running {
		running = "yes"
	}
	if r.LastRun != nil {
		result, last = r.LastRun.word(), r.LastRun.At.Local().Format("2006-01-02 15:04")
		if narrow {
			last = age(now.Sub(r.LastRun.At))
		}
	}
	known := func(s string) string { // marked when it is as last known
		switch {
		case s == "":
			return "-"
		case !r.Running:
			return "(" + s + ")"
		}
		return s
	}
	installed := string(r.Installed)
	if r.Shared {
		installed = "shared " + installed
	}
	return []string{mark, strconv.Itoa(r.VMID), dash(r.Name), running, dash(string(r.Wanted)),
		known(installed), known(r.Toolkit), last, result, r.Reason}
}

// word is what a person reads of the result, as in the summary of apply.
func (l lastRun) word() string {
	switch {
	case l.Result == hook.Skipped && l.Phase == hook.PhaseUninstall: // there was nothing left to remove
		return string(hook.Removed)
	case l.Result == hook.Skipped && l.unwanted:
		return "not wanted"
	case l.Result == hook.Skipped:
		return "in place"
	}
	return string(l.Result)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is "3 h" and so on: one number and its unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// fit cuts the names so that a line fits the width, the reason aside.
func fit(lines [][]string, width int) {
	const name, reason, least = 2, 9, 6
	if width == 0 {
		return
	}
	all := -1 // the gap behind the mark is smaller
	for i := range min(reason, len(lines[0])) {
		all += max(1, widest(lines, i)) + 2
	}
	if len(lines[0]) <= reason {
		all -= 2 // nothing follows
	}
	want := widest(lines, name)
	room := max(least, want-max(0, all-width))
	if len(lines[0]) > reason { // leave some room for reasons
		room = max(least, min(room, 24))
	}
	for _, cells := range lines {
		cells[name] = cut(cells[name], room)
	}
}

func line(cells []string, widths []int) string {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		gap := 2
		if i == 0 {
			gap = 1 // behind the mark
		}
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", max(1, widths[i])-columns(c)+gap))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// fits reports whether every line of a text fits the width; 0 is no terminal.
func fits(text string, width int) bool {
	for line := range strings.Lines(text) {
		if width > 0 && columns(strings.TrimRight(line, " \n")) > width {
			return false
		}
	}
	return true
}

func widest(lines [][]string, column int) int {
	most := 0
	for _, cells := range lines {
		most = max(most, columns(cells[column]))
	}
	return most
}

// columns is how many places a text takes in a terminal: two for each of the
// wide characters of East Asia, which begin at U+1100.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r >= 0x1100 {
			n++
		}
	}
	return n
}

// cutReason shortens a reason to width places and says where the rest stands.
func cutReason(s string, width, vmid int) string {
	more := fmt.Sprintf("; doctor %d tells more", vmid)
	if columns(s) <= width || width < 2*columns(more) {
		return cut(s, width)
	}
	return cut(s, width-columns(more)) + more
}

// cut shortens s to width places; 0 leaves it alone.
func cut(s string, width int) string {
	if width == 0 || columns(s) <= width {
		return s
	}
	var b strings.Builder
	used := 0
	for _, r := range s {
		n := columns(string(r))
		if used+n > max(0, width-3) {
			break
		}
		used += n
		b.WriteRune(r)
	}
	return b.String() + "..."[:min(3, width)]
}
