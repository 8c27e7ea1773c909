package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSetupThatWaitsForAnAnswerEndsWhenItIsInterrupted(t *testing.T) {
	silent, typing := io.Pipe()
	defer typing.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	s := guide{in: bufio.NewReader(silent), out: &out}
	_, err := s.ask(ctx, "Which?", "all", checkGPUs)
	require.EqualError(t, err, "setup: interrupted")
	require.Equal(t, "Which? [all]: \n", out.String())
}
