package hook

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func TestInstallationsTakeTurns(t *testing.T) {
	conf, _ := configOf(t)
	var said strings.Builder
	log, err := say.New(&said, "text", "info")
	require.NoError(t, err)
	start := func() *run {
		r := newRun(Event{101, PhasePostStart}, Options{Config: conf, Log: log})
		r.settings, err = conf.For(101)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(r.settings.Paths.Run, 0o755))
		return r
	}
	first, err := start().turn(t.Context())
	require.NoError(t, err)
	for range turns() - 1 {
		held, err := start().turn(t.Context())
		require.NoError(t, err)
		defer held.Release()
	}
	require.Empty(t, said.String())

	// The next one waits until one of them is done.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = start().turn(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Contains(t, said.String(), "other installations on this node")
	require.NoError(t, first.Release())
	held, err := start().turn(t.Context())
	require.NoError(t, err)
	require.NotNil(t, held)
	defer held.Release()

	// One whose installer hangs holds up nobody for ever.
	defer func(was, unit time.Duration) { turnWait, turnWaitUnit = was, unit }(turnWait, turnWaitUnit)
	for _, inUnit := range []bool{false, true} {
		turnWait, turnWaitUnit = time.Hour, 0
		if !inUnit {
			turnWait, turnWaitUnit = 0, time.Hour
		}
		r := start()
		r.InUnit = inUnit
		held, err = r.turn(t.Context())
		require.NoError(t, err)
		require.Nil(t, held)
		require.Contains(t, said.String(), "so this one starts now")
		said.Reset()
	}
}
