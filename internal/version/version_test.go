package version

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, s := range []string{"580.142", "580.76.05", "515.76", "34.1.1"} {
		v, err := Parse(s)
		require.NoError(t, err)
		require.Equal(t, s, string(v))
	}
	for _, s := range []string{"", "host", "580", "580.", "580.76.05.1", " 580.142", "580.142\n", "0580.1", "../580.1", "580.1x",
		"580.76.", "580..1", ".1", "5.1", "58000.1", "580.1000", "580.1.1000", "580.-1", "-58.1"} {
		_, err := Parse(s)
		require.Error(t, err, s)
	}
}

func TestCompare(t *testing.T) {
	require.Zero(t, Compare("580.142", "580.142"))
	require.Negative(t, Compare("580.76.05", "580.142"))
	require.Positive(t, Compare("580.142", "570.211.01"))
	require.Negative(t, Compare("418.30", "418.30.01"))
}
