package hook

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseEvent(t *testing.T) {
	e, err := ParseEvent([]string{"101", "post-start"})
	require.NoError(t, err)
	require.Equal(t, Event{101, PhasePostStart}, e)
	for _, args := range [][]string{
		{"99", "post-start"}, {"0101", "post-start"}, {"+101", "post-start"}, {"-1", "post-start"},
		{"../101", "post-start"}, {"101/..", "post-start"}, {"1e3", "post-start"}, {"", "post-start"},
		{"9999999999", "post-start"}, {"101", "start"}, {"101", ""}, {"101"}, {"101", "post-start", "x"},
	} {
		_, err := ParseEvent(args)
		require.Error(t, err, "%q", args)
	}
}

func TestCallsAreToldFromCommands(t *testing.T) {
	for _, args := range [][]string{{"101", "post-start"}, {"5", "post-start"}, {"101", "frobnicate"}, {"../x", "pre-start"}} {
		require.True(t, IsCall(args), "%q", args)
	}
	for _, args := range [][]string{{}, {"status"}, {"status", "101"}, {"enable", "101"}, {"101"}, {"config", "show", "101"}, {"", "x"}} {
		require.False(t, IsCall(args), "%q", args)
	}
}
