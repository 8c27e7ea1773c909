package hook

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnInterruptionIsSaidInPlainWords(t *testing.T) {
	err := interrupted{fmt.Errorf("fetch the file: %w", context.Canceled)}
	require.EqualError(t, err, "interrupted: fetch the file")
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, interrupted{context.Canceled}, "interrupted")
	require.EqualError(t, interrupted{fmt.Errorf("run it: %w; see its log", context.DeadlineExceeded)}, "interrupted: run it; see its log")
}
