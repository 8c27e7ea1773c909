package after

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// hangs is a container whose programs do not end.
type hangs struct{ Container }

func (hangs) Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	return labtest.Hang(ctx, cmd)
}

func TestManyNestedContainersThatHangHoldNobodyUpForLonger(t *testing.T) {
	defer func(was time.Duration) { restartLimit = was }(restartLimit)
	restartLimit = 200 * time.Millisecond
	var use inuse.Use
	for n := range 100 {
		use.Holders = append(use.Holders, inuse.Holder{
			Owner:    inuse.Owner{Engine: "docker", Nested: fmt.Sprintf("%064x", n)},
			Versions: []version.Driver{"550.163.01"},
		})
	}
	var d Done
	began := time.Now()
	d.nested(t.Context(), hangs{}, use)
	require.Less(t, time.Since(began), 2*time.Second)
	require.Empty(t, d.Restarted)
	require.NotEmpty(t, d.Failed)
	require.Less(t, len(d.Failed), 10, "those that were not tried are counted")
}

// claims is a container whose systemctl lists services without end.
type claims struct{ Container }

func (claims) Run(context.Context, lxc.Cmd) (lxc.Result, error) {
	var text strings.Builder
	for n := range 30_000 {
		fmt.Fprintf(&text, "Id=docker-%d.service\nLoadState=loaded\nActiveState=active\n\n", n)
	}
	return lxc.Result{Stdout: []byte(text.String())}, nil
}

func TestServicesWithoutEndAreNotAllTaken(t *testing.T) {
	units, err := known(t.Context(), claims{})
	require.NoError(t, err)
	require.NotEmpty(t, units)
	require.LessOrEqual(t, len(units), 200, "more than a command line can take")
}
