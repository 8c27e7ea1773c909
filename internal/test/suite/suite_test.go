package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// The test runs itself, by the suite, as a test that waits in the kernel for a FUSE
// server of its container, and ends that in the two ways in which a person does.
func TestAnInterruptedSuiteLeavesNothing(t *testing.T) {
	if os.Getenv("SUITE_TEST_HANG") == "1" {
		c := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
		pid, err := c.Pid(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Wedge(t.Context(), "/srv/wedge"))
		go os.Stat(fmt.Sprintf("/proc/%d/root/srv/wedge/x", pid))
		time.Sleep(100 * time.Millisecond)
		fmt.Printf("\nhangs %d %d %s %s\n", os.Getpid(), pid, filepath.Dir(c.LXCPath), t.TempDir())
		select {}
	}
	labtest.Need(t)
	program := filepath.Join(t.TempDir(), "suite")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, end := range map[string]func(t *testing.T, suite *os.Process){
		"SIGINT": func(t *testing.T, suite *os.Process) {
			require.NoError(t, suite.Signal(os.Interrupt))
			state, err := suite.Wait()
			require.NoError(t, err)
			require.Equal(t, 130, state.ExitCode())
		},
		"SIGKILL": func(t *testing.T, suite *os.Process) {
			lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", suite.Pid))
			require.NoError(t, err)
			var children []string
			for _, list := range lists {
				text, err := os.ReadFile(list)
				require.NoError(t, err)
				children = append(children, strings.Fields(string(text))...)
			}
			require.NoError(t, suite.Kill())
			for _, child := range children {
				group, err := strconv.Atoi(child)
				require.NoError(t, err)
				require.NoError(t, syscall.Kill(-group, syscall.SIGKILL))
			}
			_, err = suite.Wait()
			require.NoError(t, err)
			require.NoError(t, lab.Sweep(t.Context())) // as the next suite does
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			suite := exec.CommandContext(ctx, program, "--", "-count=1", "-v", "-run", "^TestAnInterruptedSuiteLeavesNothing$", ".")
			suite.Env = append(os.Environ(), "SUITE_TEST_HANG=1")
			stdout, err := suite.StdoutPipe()
			require.NoError(t, err)
			suite.Stderr = os.Stderr
			require.NoError(t, suite.Start())
			var made []string
			lines := bufio.NewScanner(stdout)
			for made == nil && lines.Scan() {
				if rest, ok := strings.CutPrefix(lines.Text(), "hangs "); ok {
					made = strings.Fields(rest)
				}
			}
			require.Len(t, made, 4)
			end(t, suite.Process)
			for _, path := range []string{"/proc/" + made[0], "/proc/" + made[1], made[2], made[3]} {
				require.Eventually(t, func() bool {
					_, err := os.Stat(path)
					return os.IsNotExist(err)
				}, 10*time.Second, 10*time.Millisecond, path)
			}
		})
	}
}

func TestAllThatIsLackingIsSaidAtOnce(t *testing.T) {
	labtest.Need(t)
	const hide = "for dir in /dev /sys/fs/cgroup /sys/fs/fuse/connections; do mount -t tmpfs x $dir || exit 9; done; "
	cmd := exec.CommandContext(t.Context(), "sh", "-c", hide+"exec packaging/ready test no-such-go 999999")
	cmd.Dir = "../../.."
	// In a user namespace nobody may mount fusectl.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}}}
	said, err := cmd.CombinedOutput()
	require.Error(t, err)
	for _, lack := range []string{"there is no no-such-go in PATH", "/dev/fuse cannot be opened",
		"/sys/fs/fuse/connections is not of type fusectl", "there are no control groups of version 2"} {
		require.Contains(t, string(said), "test: error: "+lack)
	}
	require.Regexp(t, `test: error: /\S* has \d+ GB free, the tests need 999999 GB`, string(said))
	require.Equal(t, 5, strings.Count(string(said), "test: hint: "), "%s", said)
	out, err := exec.CommandContext(t.Context(), "../../../packaging/ready", "test", "sh", "0").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
