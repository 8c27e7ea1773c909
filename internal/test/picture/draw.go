package main

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Measures of the picture: columns of text, and pixels.
const (
	columns = 110
	wide    = 7.8 // a column
	high    = 18  // a line
	margin  = 18
)

// draw makes an SVG of a terminal that shows a text. Long lines go on in the next
// one, as they do in a terminal.
func draw(text string) string {
	var body strings.Builder
	n := 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		class := ""
		if strings.HasPrefix(line, "# ") {
			if n > 0 {
				n++ // a gap before a command
			}
			class = ` class="typed"`
		}
		for first := true; first || line != ""; first = false {
			part := line
			if utf8.RuneCountInString(line) > columns {
				part = string([]rune(line)[:columns])
			}
			line = line[len(part):]
			n++
			if part = strings.TrimRight(part, " "); part == "" {
				continue
			}
			var escaped strings.Builder
			_ = xml.EscapeText(&escaped, []byte(part)) // a Builder has no errors
			fmt.Fprintf(&body, "<text%s x=\"%d\" y=\"%d\" textLength=\"%.1f\">%s</text>\n", class, margin, margin+high*n-5, wide*float64(utf8.RuneCountInString(part)), escaped.String())
		}
	}
	w, h := int(columns*wide)+2*margin, high*n+2*margin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>pve-nvidia-hook: enable, the first start, status and doctor</title>
<style>
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d1d7e0 }
.typed { fill: #7ee787; font-weight: 600 }
</style>
<rect width="%d" height="%d" rx="8" fill="#0d1117"/>
%s</svg>
`, w, h, w, h, w, h, body.String())
}
