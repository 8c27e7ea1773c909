package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePictureHoldsAllOfATextInLinesThatFit(t *testing.T) {
	text := "# pve-nvidia-hook status\na <b> & \x1b \"c\"\n" + strings.Repeat("é", 2*columns+5) + "\n\nend\n"
	var lines []string
	for d, in := xml.NewDecoder(strings.NewReader(draw(text))), ""; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			in = token.Name.Local
		case xml.EndElement:
			in = ""
		case xml.CharData:
			if in == "text" {
				lines = append(lines, string(token))
			}
		}
	}
	row := strings.Repeat("é", columns)
	require.Equal(t, []string{"# pve-nvidia-hook status", "a <b> & \ufffd \"c\"", row, row, "ééééé", "end"}, lines)
}
