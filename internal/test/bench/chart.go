package main

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// The picture's measures, in pixels.
const (
	width    = 840
	margin   = 24
	barLeft  = 270 // where bars begin
	barRight = 660 // where the longest whisker ends
	barHigh  = 16
	rowHigh  = 26
	groupGap = 40
)

// style draws a card of its own, light or dark, so that the picture can be read
// on any page around it.
const style = `
text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.group { font-weight: 600 }
.note, .value { fill: #59636e }
.value { font-variant-numeric: tabular-nums }
.ours { fill: #3fa34d } .theirs { fill: #8c959f } .floor { fill: #c8d1da }
.b { fill: #1f2328; font-weight: 600 }
.card { fill: #ffffff; stroke: #d1d9e0 }
.whisker { stroke: #59636e; fill: none }
@media (prefers-color-scheme: dark) {
text, .b { fill: #f0f6fc } .note, .value { fill: #9198a1 }
.ours { fill: #3fb950 } .theirs { fill: #656c76 } .floor { fill: #3d444d }
.card { fill: #0d1117; stroke: #3d444d } .whisker { stroke: #9198a1 }
}
`

// chart draws the times as an SVG: a group of bars for each section that holds
// times, each with its own scale, and a line from the least to the greatest.
func chart(r report) string {
	var body strings.Builder
	y := margin + 18
	write := func(class string, x, y int, anchor, text string) {
		fmt.Fprintf(&body, "<text class=%q x=\"%d\" y=\"%d\" text-anchor=%q>%s</text>\n", class, x, y, anchor, escaped(text))
	}
	write("title", margin, y, "start", "What a start of a container waits for")
	y += 22
	write("note", margin, y, "start", "Medians; the thin line goes from the least to the greatest. Shorter is better.")
	for _, s := range r.sections {
		rows := timesOf(s)
		if len(rows) == 0 {
			continue
		}
		y += groupGap
		write("group", margin, y, "start", s.title)
		y += 10
		var most float64
		for _, row := range rows {
			most = max(most, slices.Max(row.samples))
		}
		for _, row := range rows {
			drawRow(&body, write, row, y, float64(barRight-barLeft)/most)
			y += rowHigh
		}
	}
	y += margin
	for _, line := range []string{r.machine.String(), r.sample} {
		y += 18
		write("note", margin, y, "start", line)
	}
	high := y + margin
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n<style>%s</style>\n"+
		"<rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n%s</svg>\n",
		width, high, width, high, style, width-1, high-1, body.String())
}

func drawRow(body *strings.Builder, write func(class string, x, y int, anchor, text string), row row, y int, scale float64) {
	class := map[kind]string{ours: "ours", theirs: "theirs", floor: "floor"}[row.kind]
	at := func(v float64) float64 { return barLeft + v*scale }
	middle := float64(y) + rowHigh/2
	label, value := "", "value"
	if row.kind == ours {
		label, value = "b", "b"
	}
	write(label, barLeft-10, y+rowHigh/2+5, "end", row.name)
	fmt.Fprintf(body, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>\n",
		class, barLeft, y+(rowHigh-barHigh)/2, max(1, row.median()*scale), barHigh)
	least, greatest := at(slices.Min(row.samples)), at(slices.Max(row.samples))
	if len(row.samples) > 1 {
		fmt.Fprintf(body, "<path class=\"whisker\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>\n",
			least, middle, greatest, least, middle-3, greatest, middle-3)
	}
	write(value, int(greatest)+10, y+rowHigh/2+5, "start", row.value())
}

func timesOf(s section) []row {
	var rows []row
	for _, r := range s.rows {
		if r.unit == inSeconds && len(r.samples) > 0 && s.key != "node" {
			rows = append(rows, r)
		}
	}
	return rows
}

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder does not fail
	return b.String()
}
