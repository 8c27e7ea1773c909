package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

func TestWhatOnlyRootCanSeeIsRefusedToOthers(t *testing.T) {
	for _, c := range []struct {
		words  []string
		uid    int
		refuse bool
	}{
		{[]string{"status"}, 1000, true},
		{[]string{"status"}, 0, false},
		{[]string{"doctor"}, 1000, true},
		{[]string{"cache", "prune"}, 1000, true},
		{[]string{"cache", "verify"}, 1000, true},
		{[]string{"enable"}, 1000, true},
		{[]string{"disable"}, 1000, true},
		{[]string{"cache", "list"}, 1000, false},
		{[]string{"replay"}, 1000, true},
		{[]string{"config", "check"}, 1000, false},
		{[]string{"version"}, 1000, false},
	} {
		cmd, _, err := Root().Find(c.words)
		require.NoError(t, err)
		err = checkRoot(cmd, "", c.uid)
		require.Equal(t, c.refuse, err != nil, "%v", c.words)
		if err != nil {
			require.Equal(t, "run it as root on the node", hint.Of(err))
		}
	}
	cmd, _, err := Root().Find([]string{"replay"})
	require.NoError(t, err)
	require.NoError(t, cmd.ParseFlags([]string{"--trace", "x"}))
	require.NoError(t, checkRoot(cmd, "", 1000), "a trace is decided from its file")
}
