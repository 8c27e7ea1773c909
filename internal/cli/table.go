package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

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

const (
	wide    = 120 // from this width on a line has room for a date and a reason
	maxName = 24  // of a name, so that there is room for the reason
	minName = 6
)

// printStatus writes the table of status: one line a container. Where the
// terminal is too narrow for reasons, that of a problem stands on a line below.
func printStatus(w io.Writer, rows []statusRow, now time.Time, width int, colour bool) error {
	narrow := width > 0 && width < wide
	lines := statusLines(rows, now, narrow, 0)
	switch {
	case narrow:
		longest := 0
		for _, r := range rows {
			longest = max(longest, columns(r.Name))
		}
		if over := widest(lines) - width; over > 0 {
			lines = statusLines(rows, now, narrow, max(minName, longest-over))
		}
	case width > 0:
		lines = statusLines(rows, now, narrow, maxName)
	}
	var out bytes.Buffer
	for i, line := range lines {
		if i == 0 {
			fmt.Fprintln(&out, cut(line, width))
			continue
		}
		r := rows[i-1]
		text := []string{cutReason(line, width, r.VMID)}
		if narrow {
			text = []string{cut(line, width)}
			if !r.OK {
				text = append(text, "    "+cutReason(r.Reason, max(1, width-4), r.VMID))
			}
		}
		for _, t := range text {
			if colour && !r.OK {
				t = "\x1b[1;31m" + t + "\x1b[0m"
			}
			fmt.Fprintln(&out, t)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// statusLines lays rows out in columns, below a line with their names. A name
// takes at most so many places, 0 is no limit.
func statusLines(rows []statusRow, now time.Time, narrow bool, name int) []string {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	head := "  VMID\tNAME\tRUNNING\tWANTED\tINSTALLED\tTOOLKIT\tLAST RUN\tRESULT"
	if !narrow {
		head += "\tREASON"
	}
	fmt.Fprintln(w, head)
	for _, r := range rows {
		r.Name = cut(r.Name, name)
		fmt.Fprintln(w, strings.Join(r.cells(now, narrow), "\t"))
	}
	w.Flush() // a strings.Builder takes all
	var lines []string
	for line := range strings.Lines(table.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return lines
}

func (r statusRow) cells(now time.Time, narrow bool) []string {
	mark, running, last, result := "  ", "no", "never", "-"
	if !r.OK {
		mark = "! "
	}
	if r.Running {
		running = "yes"
	}
	if r.LastRun != nil {
		result, last = inWord(r.LastRun.Phase, r.LastRun.Result, !r.LastRun.unwanted), r.LastRun.At.Local().Format("2006-01-02 15:04")
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
	cells := []string{mark + strconv.Itoa(r.VMID), cmp.Or(r.Name, "-"), running, cmp.Or(string(r.Wanted), "-"),
		known(installed), known(r.Toolkit), last, result}
	if !narrow {
		cells = append(cells, r.Reason)
	}
	return cells
}

const inPlace, notWanted = "in place", "not wanted"

// inWord is what a person reads of the result of a run. wanted tells whether a driver was.
func inWord(p hook.Phase, r hook.Result, wanted bool) string {
	switch {
	case r == hook.Skipped && p == hook.PhaseUninstall: // there was nothing left to remove
		return string(hook.Removed)
	case r == hook.Skipped && !wanted:
		return notWanted
	case r == hook.Skipped:
		return inPlace
	}
	return string(r)
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

func widest(lines []string) int {
	most := 0
	for _, line := range lines {
		most = max(most, columns(line))
	}
	return most
}

// columns is how many places a text takes in a terminal.
func columns(s string) int { return utf8.RuneCountInString(s) }

// cutReason shortens a text that ends with a reason to width places, and says where the
// rest stands.
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
	return string([]rune(s)[:max(0, width-3)]) + "..."[:min(3, width)]
}
