package lxc_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// endsWithin fails the test when f takes too long. What hangs in the kernel cannot be
// waited for.
func endsWithin(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("it takes more than %s", limit)
	}
}

// leaves are the cgroups of ours beside the container's own.
func leaves(t *testing.T, c *lxc.Container) []string {
	t.Helper()
	own, err := c.Cgroup()
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(filepath.Dir(own), "pve-nvidia-hook.*"))
	require.NoError(t, err)
	return found
}

func TestTheMonitorTellsTheCgroup(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		cgroup, err := c.Cgroup()
		require.NoError(t, err)
		require.Equal(t, "ns", filepath.Base(cgroup))
		pids, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		require.NoError(t, err)
		require.Contains(t, strings.Fields(string(pids)), strconv.Itoa(c.Pid()))
		require.NoError(t, at.Stop())
		_, err = c.Cgroup()
		require.ErrorIs(t, err, lxc.ErrNotRunning)
	})
}

func TestACommandHasACgroupOfItsOwn(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		cmd := shell("cat /proc/self/cgroup; sleep 0.1")
		var seen []string
		cmd.OnLine = func(string) { seen = leaves(t, c) }
		res, err := c.Run(t.Context(), cmd)
		require.NoError(t, err)
		require.Len(t, seen, 1)
		require.Contains(t, string(res.Stdout), "0::/../"+filepath.Base(seen[0])+"\n")
		require.Empty(t, leaves(t, c))
		for line := range strings.Lines(string(res.Stdout)) {
			if !strings.HasPrefix(line, "0::") { // cgroup v1
				require.Regexp(t, `^\d+:[^:]+:/\n$`, line, "it is the container's own, with its limits")
			}
		}
	})
}

// LXC does not start a container again whose cgroup of the last time is still there. It
// cannot remove it while a process that is not the container's lives in it.
func TestAContainerThatDiesDuringACommandStartsAgain(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		_, err := at.Attach(t.Context(), "true") // leaves a cgroup in the container's own
		require.NoError(t, err)
		own, err := c.Cgroup()
		require.NoError(t, err)
		inTheWay := filepath.Join(filepath.Dir(own), "other")
		require.NoError(t, os.Mkdir(inTheWay, 0o755))
		sleeps := exec.Command("sleep", "60")
		require.NoError(t, sleeps.Start())
		defer func() { _ = sleeps.Process.Kill() }()
		require.NoError(t, os.WriteFile(filepath.Join(inTheWay, "cgroup.procs"), []byte(strconv.Itoa(sleeps.Process.Pid)), 0))

		cmd, begun := shell("echo begun; exec sleep 60"), make(chan bool, 1)
		cmd.OnLine = func(string) { begun <- true }
		ended := make(chan error, 1)
		go func() {
			_, err := c.Run(context.WithoutCancel(t.Context()), cmd)
			ended <- err
		}()
		<-begun
		require.NoError(t, unix.Kill(c.Pid(), unix.SIGKILL))
		require.NoError(t, exec.Command("lxc-wait", "-P", at.LXCPath, "-n", strconv.Itoa(at.VMID), "-s", "STOPPED", "-t", "10").Run())
		require.NoError(t, sleeps.Process.Kill())
		_ = sleeps.Wait()
		<-ended
		require.NoDirExists(t, filepath.Dir(own))
		require.NoError(t, at.Start(t.Context()))
	})
}

func TestACommandHasTheLimitsOfTheContainer(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101, Privileged: true, MemoryLimit: 64 << 20})
	res, err := c.Run(t.Context(), shell("head -c 200M /dev/zero | tail | wc -c"))
	require.NoError(t, err)
	require.NotContains(t, string(res.Stdout), strconv.Itoa(200<<20), "tail is killed for its memory")
	// The rules of common.conf refuse block devices.
	res, err = c.Run(t.Context(), shell("mknod /root/disk b 7 0 && cat /root/disk | head -c 1; rm -f /root/disk"))
	require.NoError(t, err)
	require.Contains(t, string(res.Stderr), "Operation not permitted")
}

func TestAContainerWithoutRoomForAProcessIsNamed(t *testing.T) {
	version := "cgroup"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		version = "cgroup2"
	}
	_, c := open(t, lab.Spec{VMID: 101, ExtraConfig: []string{"lxc." + version + ".pids.max = 1"}})
	_, err := c.Run(t.Context(), shell("true"))
	require.ErrorContains(t, err, "Resource temporarily unavailable")
	require.Contains(t, hint.Of(err), "pids.max")
}

// A process that is stuck in execve keeps the kernel's locks of its /proc/PID.
func TestAProcessThatIsStuckInExecHoldsNobodyUp(t *testing.T) {
	for name, privileged := range map[string]bool{"privileged": true, "unprivileged": false} {
		t.Run(name, func(t *testing.T) {
			bad := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
			_, c := open(t, lab.Spec{VMID: 102, Privileged: privileged})
			require.NoError(t, bad.WedgeReads(t.Context(), "/srv/wedge"))
			sh(t, bad, `setsid perl -e 'sysopen(F,"/srv/wedge/x",0) or die; exec "sleep","7603"' >/dev/null 2>&1 & sleep 0.5`)
			endsWithin(t, 10*time.Second, func() {
				cmd := shell("echo up; setsid sleep 7601 & sleep 7601")
				cmd.Timeout = 300 * time.Millisecond
				_, err := c.Run(t.Context(), cmd)
				require.ErrorIs(t, err, lxc.ErrDeadline)
				_, err = c.KillStrays(t.Context())
				require.NoError(t, err)
			})
			// The container itself is opened and a command is ended in it, too.
			endsWithin(t, 10*time.Second, func() {
				c, err := lxc.Open(t.Context(), bad.LXCPath, bad.VMID)
				require.NoError(t, err)
				defer c.Close()
				cmd := shell("sleep 7602 & sleep 7602")
				cmd.Timeout = 300 * time.Millisecond
				_, err = c.Run(t.Context(), cmd)
				require.ErrorIs(t, err, lxc.ErrDeadline)
			})
		})
	}
}

func TestAnInitThatIsStuckInExecHoldsNobodyUp(t *testing.T) {
	bad := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
	good := labtest.Start(t, lab.Spec{VMID: 102})
	release, err := bad.StickInit(t.Context())
	require.NoError(t, err)
	defer release()
	endsWithin(t, 8*time.Second, func() {
		_, err := lxc.Open(t.Context(), bad.LXCPath, bad.VMID)
		require.ErrorContains(t, err, "does not answer within")
		require.NotErrorIs(t, err, lxc.ErrNotRunning)
		c, err := lxc.Open(t.Context(), good.LXCPath, good.VMID)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
}

// pureV2 says that only cgroup v2 is mounted, with the options that systemd takes.
const pureV2 = "LXC_TEST_PURE_V2=1"

// The same with cgroup v2 alone, as on Proxmox VE 9: the tests above run again where
// nothing else is mounted.
func TestCgroupsWithoutV1(t *testing.T) {
	labtest.Need(t)
	const again = "^(TestTheMonitorTellsTheCgroup|TestACommandHasACgroupOfItsOwn|TestACommandHasTheDeviceRulesOfTheContainer|TestACommandCannotLeaveItsCgroup|TestADaemonIsLeftUnlessReaped|TestADeadlineEndsAllThatWasStarted|TestStraysOfAKilledHookAreEnded)$"
	script := `umount -R -l /sys/fs/cgroup; mount -t cgroup2 -o nsdelegate none /sys/fs/cgroup && exec "$0" -test.v "-test.run=$1"`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation=private", "sh", "-c", script, os.Args[0], again)
	cmd.Env = append(os.Environ(), pureV2)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 7, strings.Count(string(out), "\n--- PASS: Test"), "%s", out)
}

// With cgroup v2 the rules are a program of LXC's at one folder, which must lie above
// the leaf: root of a privileged container can make a node of any disk of the host.
func TestACommandHasTheDeviceRulesOfTheContainer(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101, Privileged: true})
	var host unix.Stat_t
	require.NoError(t, unix.Stat("/", &host))
	res, err := c.Run(t.Context(), shell(fmt.Sprintf("mknod /root/disk b %d %d && head -c 1 /root/disk; head -c 1 /dev/zero | wc -c", unix.Major(host.Dev), unix.Minor(host.Dev))))
	require.NoError(t, err)
	require.Contains(t, string(res.Stderr), "/root/disk' for reading: Operation not permitted")
	require.Equal(t, "1\n", string(res.Stdout))
}

func TestACommandCannotLeaveItsCgroup(t *testing.T) {
	if !slices.Contains(os.Environ(), pureV2) {
		t.Skip("it is part of TestCgroupsWithoutV1")
	}
	_, c := open(t, lab.Spec{VMID: 101, Privileged: true, ExtraConfig: []string{"lxc.mount.auto = cgroup:rw:force"}})
	cmd := shell("echo $$ > /sys/fs/cgroup/cgroup.procs; cat /proc/self/cgroup; (setsid sleep 7604 >/dev/null 2>&1 &); sleep 1000")
	cmd.Timeout = time.Second
	res, err := c.Run(t.Context(), cmd)
	require.ErrorIs(t, err, lxc.ErrDeadline)
	require.Contains(t, string(res.Stderr), "write error")
	require.Contains(t, string(res.Stdout), "0::/../pve-nvidia-hook.")
	require.Empty(t, sleepers(t, c, "7604"))
}
