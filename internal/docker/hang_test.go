package docker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// hangs is a container whose programs do not end.
type hangs struct{ files }

func (hangs) Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	return labtest.Hang(ctx, cmd)
}

func TestManySpecificationsHoldNobodyUpForLonger(t *testing.T) {
	defer func(was time.Duration) { refreshLimit = was }(refreshLimit)
	refreshLimit = 200 * time.Millisecond
	c := hangs{files{of: map[string]string{ctk: ""}}}
	for n := range 60 {
		c.of[fmt.Sprintf("/etc/cdi/%d.yaml", n)] = "kind: nvidia.com/gpu\nhostPath: /usr/lib/libcuda.so.550.163.01\n"
	}
	began := time.Now()
	made, err := Refresh(t.Context(), c, "580.142")
	require.Less(t, time.Since(began), 2*time.Second)
	require.Empty(t, made)
	require.ErrorContains(t, err, "make the CDI specification")
	require.ErrorContains(t, err, "59 more")
}
