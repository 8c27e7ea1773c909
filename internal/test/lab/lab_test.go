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
	"syscall"
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
		own(lab.Spec{VMID: 103})
		select {}
	}
	labtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	owner, dir, pid := startOwner(t, ctx)
	require.NoError(t, lab.Sweep(ctx))
	require.DirExists(t, dir, "the owner lives")
	require.NoError(t, owner.Process.Kill())
	owner.Wait()
	require.NoError(t, lab.Sweep(ctx))
	require.NoDirExists(t, dir)
	require.NoDirExists(t, "/proc/"+pid)
}

// The same with an owner that waits in the kernel for a FUSE server of its own
// container, and which not even SIGKILL ends therefore.
func TestSweepEndsAnOwnerThatHangs(t *testing.T) {
	if os.Getenv("LAB_TEST_OWNER") == "1" {
		c, pid := own(lab.Spec{VMID: 103, Privileged: true})
		if err := c.Wedge(context.Background(), "/srv/wedge"); err != nil {
			panic(err)
		}
		go os.Stat(fmt.Sprintf("/proc/%d/root/srv/wedge/x", pid))
		time.Sleep(100 * time.Millisecond)
		fmt.Fprintln(os.Stderr, "hangs")
		select {}
	}
	labtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	owner, dir, pid := startOwner(t, ctx)
	require.NoError(t, owner.Process.Kill())
	time.Sleep(300 * time.Millisecond)
	require.DirExists(t, fmt.Sprintf("/proc/%d", owner.Process.Pid))
	require.NoError(t, lab.Sweep(ctx))
	require.NoDirExists(t, dir)
	require.NoDirExists(t, "/proc/"+pid)
	owner.Wait()
}

// A signal ends a test without its cleanups, but not without its containers.
func TestASignalLeavesNoContainer(t *testing.T) {
	if os.Getenv("LAB_TEST_OWNER") == "1" {
		c := labtest.Start(t, lab.Spec{VMID: 103, Privileged: true})
		pid, err := c.Pid(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Wedge(t.Context(), "/srv/wedge"))
		go os.Stat(fmt.Sprintf("/proc/%d/root/srv/wedge/x", pid))
		time.Sleep(100 * time.Millisecond)
		fmt.Fprintf(os.Stderr, "LAB %s %d\nhangs\n", filepath.Dir(c.LXCPath), pid)
		select {}
	}
	labtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	owner, dir, pid := startOwner(t, ctx)
	require.NoError(t, owner.Process.Signal(syscall.SIGTERM))
	require.ErrorContains(t, owner.Wait(), "terminated")
	require.NoDirExists(t, dir)
	require.NoDirExists(t, "/proc/"+pid)
}

func own(spec lab.Spec) (*lab.Container, int) {
	ctx := context.Background()
	c, err := lab.New(ctx, spec)
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		panic(err)
	}
	pid, err := c.Pid(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "LAB %s %d\n", filepath.Dir(c.LXCPath), pid)
	return c, pid
}

// startOwner runs this test as the owner of a lab until it has said what it has
// made: the folder, and the process of its container.
func startOwner(t *testing.T, ctx context.Context) (owner *exec.Cmd, dir, pid string) {
	t.Helper()
	owner = exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	owner.Env = append(os.Environ(), "LAB_TEST_OWNER=1")
	stderr, err := owner.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	reader := bufio.NewReader(stderr)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	fields := strings.Fields(line)
	require.Len(t, fields, 3, line)
	require.True(t, strings.HasPrefix(fields[1], lab.Dir()+"/labs/"), line)
	if t.Name() != "TestSweepRemovesTheLabOfADeadProcess" {
		line, err := reader.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "hangs\n", line)
	}
	return owner, fields[1], fields[2]
}
