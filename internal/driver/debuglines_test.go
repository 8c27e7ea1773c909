package driver

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func TestEmptyLinesOfAnInstallerAreNotSaid(t *testing.T) {
	var out bytes.Buffer
	log, err := say.New(&out, "text", "debug")
	require.NoError(t, err)
	for _, line := range []string{"", "begin", "  ", "end"} {
		debugLines(log, "installer")(line)
	}
	require.Equal(t, "pve-nvidia-hook: debug: installer: begin\npve-nvidia-hook: debug: installer: end\n", out.String())
}
