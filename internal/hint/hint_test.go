package hint

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheOutermostHintWins(t *testing.T) {
	inner := Wrap(io.EOF, "inner")
	outer := Wrap(fmt.Errorf("reading: %w", inner), "outer")
	require.Equal(t, "outer", Of(outer))
	require.Equal(t, "inner", Of(fmt.Errorf("more: %w", inner)))
	require.ErrorIs(t, outer, io.EOF)
	require.EqualError(t, outer, "reading: EOF")
}

func TestNoErrorNoHint(t *testing.T) {
	require.NoError(t, Wrap(nil, "x"))
	require.Empty(t, Of(errors.New("x")))
	require.Empty(t, Of(nil))
}
