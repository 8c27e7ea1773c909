package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

func TestContainersStartAndLeaveNothing(t *testing.T) {
	for name, spec := range map[string]lab.Spec{
		"privileged":   {VMID: 101, Privileged: true},
		"unprivileged": {VMID: 101},
		"plain copy":   {VMID: 101, Plain: true},
		"small":        {VMID: 101, SizeLimit: 8 << 20},
		"host network": {VMID: 101, Privileged: true, HostNet: true},
		"little memory": {VMID: 101, MemoryLimit: 64 << 20,
			ExtraConfig: []string{"lxc.environment = SEEN=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := labtest.Open(t)
			c := labtest.StartIn(t, l, spec)
			out, err := c.Attach(t.Context(), "sh", "-c", "echo in > /root/mark && stat -c %u /root/mark /bin/su && id -u")
			require.NoError(t, err)
			require.Equal(t, "0\n0\n0\n", out)
			info, err := os.Stat(filepath.Join(c.Root, "bin/su"))
			require.NoError(t, err)
			require.NotZero(t, info.Mode()&os.ModeSetuid, "setuid bits are kept")
			if spec.SizeLimit > 0 {
				out, err := c.Attach(t.Context(), "sh", "-c", "head -c 20000000 /dev/zero > /root/big")
				require.Error(t, err)
				require.Contains(t, out, "No space left")
			}
			if spec.HostNet {
				out, err := c.Attach(t.Context(), "cat", "/proc/net/dev")
				require.NoError(t, err)
				host, err := os.ReadFile("/proc/net/dev")
				require.NoError(t, err)
				require.Equal(t, strings.Count(string(host), "\n"), strings.Count(out, "\n"))
			}
			require.NoError(t, l.Close())
			require.NoDirExists(t, l.Dir)
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			require.NoError(t, err)
			require.NotContains(t, string(mounts), l.Dir)
		})
	}
}

func TestSystemdBoots(t *testing.T) {
	c := labtest.Start(t, lab.Spec{VMID: 102, Systemd: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.WaitBooted(ctx))
}

func TestEightContainersOfOneLabStartAtOnce(t *testing.T) {
	l := labtest.Open(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			c, err := l.Container(t.Context(), lab.Spec{VMID: 200 + i, Privileged: i%2 == 0})
			if err == nil {
				err = c.Start(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// The test runs itself as the owner of a lab and kills that process.
func TestSweepRemovesTheLabOfADeadProcess(t *testing.T) {
	if os.Getenv("LAB_TEST_OWNER") == "1" {
		c, err := lab.New(context.Background(), lab.Spec{VMID: 103})
		require.NoError(t, err)
		require.NoError(t, c.Start(context.Background()))
		pid, err := c.Pid(context.Background())
		require.NoError(t, err)
		fmt.Fprintf(os.Stderr, "LAB %s %d\n", filepath.Dir(c.LXCPath), pid)
		select {}
	}
	labtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	owner := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	owner.Env = append(os.Environ(), "LAB_TEST_OWNER=1")
	stderr, err := owner.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	fields := strings.Fields(line)
	require.Len(t, fields, 3, line)
	dir, pid := fields[1], fields[2]
	require.True(t, strings.HasPrefix(dir, lab.Dir()+"/labs/"), dir)

	require.NoError(t, lab.Sweep(ctx))
	require.DirExists(t, dir, "the owner lives")
	require.NoError(t, owner.Process.Kill())
	owner.Wait()
	require.NoError(t, lab.Sweep(ctx))
	require.NoDirExists(t, dir)
	require.NoDirExists(t, "/proc/"+pid)
}
