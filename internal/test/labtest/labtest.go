// Package labtest gives a test its containers and takes them away after it.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// EnvNeed names the variable that, set to 1, turns a skip for want of LXC into
// a failure, so that a CI job cannot pass by testing nothing.
const EnvNeed = "PVE_NVIDIA_HOOK_NEED_LXC"

// limit covers a first build of a base root too.
const limit = 10 * time.Minute

// Need skips the test where no containers can be made.
func Need(t testing.TB) {
	t.Helper()
	if err := lab.Missing(); err != nil {
		without(t, fmt.Sprintf("%v (%s)", err, hint.Of(err)))
	}
}

// Program skips the test where a program is missing.
func Program(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		without(t, name+" is missing")
	}
}

func without(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(EnvNeed) == "1" {
		t.Fatalf("%s=1, but %s", EnvNeed, what)
	}
	t.Skip(what)
}

// Open opens a lab that is closed at the end of the test.
func Open(t testing.TB) *lab.Lab {
	t.Helper()
	Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	l, err := lab.Open(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// Start makes and starts a container in a lab of its own.
func Start(t testing.TB, spec lab.Spec) *lab.Container {
	t.Helper()
	return StartIn(t, Open(t), spec)
}

// StartIn makes and starts a container in a lab that is there.
func StartIn(t testing.TB, l *lab.Lab, spec lab.Spec) *lab.Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := l.Container(ctx, spec)
	require.NoError(t, err)
	require.NoError(t, c.Start(ctx))
	return c
}
