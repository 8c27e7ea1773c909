package lxc_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

func shell(script string) lxc.Cmd {
	return lxc.Cmd{Args: []string{"bash", "-c", script}, Timeout: 30 * time.Second}
}

// sleepers are the processes of the container that sleep for this many seconds;
// each test has a number of its own.
func sleepers(t *testing.T, c *lxc.Container, seconds string) []int {
	t.Helper()
	ours, err := os.Readlink("/proc/" + strconv.Itoa(c.Pid()) + "/ns/pid")
	require.NoError(t, err)
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []int
	for _, name := range lines {
		text, _ := os.ReadFile(name)
		ns, _ := os.Readlink(filepath.Join(filepath.Dir(name), "ns/pid"))
		if ns == ours && strings.Contains(string(text), "sleep\x00"+seconds+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			found = append(found, pid)
		}
	}
	return found
}

func TestRunGivesStatusAndOutput(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, "echo data > /root/plain; echo '#!/nowhere' > /root/bad; chmod +x /root/bad")
		for _, test := range []struct {
			args []string
			code int
			out  string
		}{
			{[]string{"true"}, 0, ""},
			{[]string{"false"}, 1, ""},
			{[]string{"sh", "-c", "exit 77"}, 77, ""},
			{[]string{"sh", "-c", "exit 255"}, 255, ""},
			{[]string{"sh", "-c", "kill -TERM $$"}, 143, ""},
			{[]string{"sh", "-c", "kill -KILL $$"}, 137, ""},
			{[]string{"no-such-program"}, 127, ""},
			{[]string{"/root/bad"}, 127, ""},
			{[]string{"/root/plain"}, 126, ""},
			{[]string{"/root"}, 126, ""},
			{[]string{"echo", "-n", "$HOME `id`; x"}, 0, "$HOME `id`; x"},
			{[]string{"sh", "-c", "echo out; echo err >&2; exit 1"}, 1, "out\n"},
		} {
			res, err := c.Run(t.Context(), lxc.Cmd{Args: test.args, Timeout: 30 * time.Second})
			require.NoError(t, err, test.args)
			require.Equal(t, test.code, res.Code, "%v: %s", test.args, res.Stderr)
			require.Equal(t, test.out, string(res.Stdout))
		}
	})
}

func TestRunGivesACleanEnvironmentAndStdin(t *testing.T) {
	t.Setenv("HOST_SECRET", "x")
	at := labtest.Start(t, lab.Spec{VMID: 101})
	c, err := lxc.Open(t.Context(), at.LXCPath, 101)
	require.NoError(t, err)
	defer c.Close()
	cmd := shell("env; cat; id -u; tty; pwd")
	cmd.Env = []string{"A=b c", "PATH=/x:/bin:/usr/bin", "LC_ALL=C.UTF-8", "LD_LIBRARY_PATH=/x", "EMPTY="}
	cmd.Stdin = strings.NewReader("from stdin\n")
	res, err := c.Run(t.Context(), cmd)
	require.NoError(t, err)
	out := string(res.Stdout)
	require.Contains(t, out, "A=b c\n")
	require.Contains(t, out, "PATH=/x:/bin:/usr/bin\n")
	require.Contains(t, out, "container=lxc\n")
	require.Contains(t, out, "LC_ALL=C.UTF-8\n")
	require.Contains(t, out, "LD_LIBRARY_PATH=/x\n")
	require.Contains(t, out, "EMPTY=\n")
	require.NotContains(t, out, "HOST_SECRET")
	require.Contains(t, out, "from stdin\n0\nnot a tty\n/\n")

	res, err = c.Run(t.Context(), shell("cat; echo end"))
	require.NoError(t, err)
	require.Equal(t, "end\n", string(res.Stdout), "without a reader stdin is at its end")

	cmd = shell("head -c 5")
	cmd.Stdin = endless(func() {})
	res, err = c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Len(t, res.Stdout, 5)
}

func TestVariablesGoBeforeTheContainersOwn(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101, ExtraConfig: []string{
		"lxc.environment = TERM=linux", "lxc.environment = LC_ALL=de_DE.UTF-8", "lxc.environment = PATH=/nowhere",
	}})
	cmd := shell("echo $TERM,$LC_ALL,$PATH")
	cmd.Env = []string{"TERM=dumb", "LC_ALL=C"}
	res, err := c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, "dumb,C,"+lxc.Path+"\n", string(res.Stdout))
	cmd.Env = []string{"PATH=/opt:/bin"}
	res, err = c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, "linux,de_DE.UTF-8,/opt:/bin\n", string(res.Stdout))
}

// /dev/null of the host is a file of the host: its mode and times can be changed
// by a descriptor.
func TestACommandGetsNoFileOfTheHost(t *testing.T) {
	both(t, func(t *testing.T, _ *lab.Container, c *lxc.Container) {
		res, err := c.Run(t.Context(), shell("for fd in 0 1 2; do readlink /proc/self/fd/$fd; done"))
		require.NoError(t, err)
		require.Regexp(t, `^pipe:\S+\npipe:\S+\npipe:\S+\n$`, string(res.Stdout))
	})
}

func TestNoCommandLineShowsAProxysPassword(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	cmd := shell("echo up; sleep 7601")
	cmd.Env = []string{"https_proxy=http://user:hunter2@proxy"}
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	cmd.OnLine = func(string) {
		defer cancel()
		names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range names {
			text, _ := os.ReadFile(name)
			if strings.Contains(string(text), "7601") {
				seen++
				if strings.Contains(string(text), "hunter2") {
					t.Errorf("%s: %q", name, text)
				}
			}
		}
	}
	_, err := c.Run(ctx, cmd)
	require.ErrorIs(t, err, context.Canceled)
	require.GreaterOrEqual(t, seen, 2, "lxc-attach and the command")
}

// What a command may leave behind, each sleeping a time of its own.
var leavers = map[string]string{
	"child":                 "sleep %; echo",
	"ignores SIGTERM":       "trap '' TERM INT HUP; sleep %; sleep %",
	"daemon":                "(setsid sleep % </dev/null >/dev/null 2>&1 &); sleep 1000",
	"holds the pipes":       "(setsid sleep % &); sleep 1000",
	"no environment":        "(env -i sleep % &); sleep 1000",
	"session and no env":    "setsid env -i sleep % & sleep 1000",
	"nothing to know it by": "(env -i setsid -f sleep % >/dev/null 2>&1 </dev/null); sleep 1000",
	"stopped":               "sleep % & kill -STOP $!; sleep 1000",
	"forks on":              "f() { while :; do sleep % & sleep 0.01; done; }; f & f & sleep 1000",
	"pid namespace":         "unshare -p -f --kill-child=SIGTERM sleep %",
}

func TestADeadlineEndsAllThatWasStarted(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		number := 7000
		for name, script := range leavers {
			number++
			seconds := strconv.Itoa(number)
			cmd := shell(strings.ReplaceAll(script, "%", seconds))
			cmd.Timeout = 400 * time.Millisecond
			begin := time.Now()
			_, err := c.Run(t.Context(), cmd)
			require.ErrorIs(t, err, lxc.ErrDeadline, name)
			require.Less(t, time.Since(begin), 2500*time.Millisecond, name)
			require.Empty(t, sleepers(t, c, seconds), name)
		}
		require.True(t, c.Alive())
	})
}

func TestCancelEndsWithinTwoSeconds(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		ctx, cancel := context.WithCancel(t.Context())
		var cancelled time.Time
		cmd := shell("trap '' TERM; setsid sleep 7101 & echo up; while :; do sleep 7101; done")
		cmd.OnLine = func(line string) { cancelled = time.Now(); cancel() }
		_, err := c.Run(ctx, cmd)
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, time.Since(cancelled), 2*time.Second)
		require.Empty(t, sleepers(t, c, "7101"))
	})
}

func TestCancelBeforeTheCommandIsUpLeavesNothing(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	for i := range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
		_, err := c.Run(ctx, shell("setsid sleep 7201 & sleep 7201"))
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, sleepers(t, c, "7201"))
	}
}

func TestOnlyWhatWasStartedIsEnded(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		sh(t, at, "setsid sleep 7301 >/dev/null 2>&1 & sleep 7301 >/dev/null 2>&1 &")
		cmd := shell("sleep 7302 & sleep 7302")
		cmd.Timeout = 200 * time.Millisecond
		_, err := c.Run(t.Context(), cmd)
		require.ErrorIs(t, err, lxc.ErrDeadline)
		n, err := c.KillStrays(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
		require.Empty(t, sleepers(t, c, "7302"))
		require.Len(t, sleepers(t, c, "7301"), 2)
	})
}

func TestADaemonIsLeftUnlessReaped(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	cmd := shell("(setsid sleep 7401 &); echo done; exit 3")
	begin := time.Now()
	res, err := c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, 3, res.Code)
	require.Equal(t, "done\n", string(res.Stdout))
	require.Less(t, time.Since(begin), 2*time.Second, "the daemon holds the pipes")
	require.Len(t, sleepers(t, c, "7401"), 1)

	cmd.Reap = true
	res, err = c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, 3, res.Code)
	require.Equal(t, "done\n", string(res.Stdout))
	require.Len(t, sleepers(t, c, "7401"), 1, "the one that the first run left")

	n, err := c.KillStrays(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Empty(t, sleepers(t, c, "7401"))
}

// The test runs itself as a hook, which is killed without a chance to clean up.
func TestStraysOfAKilledHookAreEnded(t *testing.T) {
	if path := os.Getenv("LXC_TEST_PATH"); path != "" {
		c, err := lxc.Open(context.Background(), path, 101)
		require.NoError(t, err)
		c.Run(context.Background(), lxc.Cmd{Timeout: time.Minute,
			Args:   []string{"bash", "-c", "sleep 7501 & setsid env -i sleep 7501 & (env -i sleep 7501 &) ; echo up; wait"},
			OnLine: func(string) { os.Stderr.WriteString("UP\n"); select {} }})
		return
	}
	at, c := open(t, lab.Spec{VMID: 101})
	hook := self(t, t.Name(), "LXC_TEST_PATH="+at.LXCPath)
	stderr, err := hook.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, hook.Start())
	_, err = stderr.Read(make([]byte, 3))
	require.NoError(t, err)
	require.NotEmpty(t, sleepers(t, c, "7501"))
	require.NoError(t, hook.Process.Kill())
	hook.Wait()
	n, err := c.KillStrays(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 3)
	require.Empty(t, sleepers(t, c, "7501"))
}

func TestEndlessOutputCostsNoMemory(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	lines := 0
	cmd := shell("echo first; yes 0123456789 & exec yes abcdef >&2")
	cmd.Timeout = 500 * time.Millisecond
	cmd.Keep = 1000
	cmd.OnLine = func(string) { lines++ }
	res, err := c.Run(t.Context(), cmd)
	require.ErrorIs(t, err, lxc.ErrDeadline)
	require.Len(t, res.Stdout, 1000)
	require.Len(t, res.Stderr, 1000)
	require.Contains(t, string(res.Stdout), "0123456789\n")
	require.Less(t, lines, 4000)

	cmd = shell("head -c 300000 /dev/zero | tr '\\0' x; echo END")
	cmd.Keep = 10
	var seen []string
	cmd.OnLine = func(line string) { seen = append(seen, line) }
	res, err = c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, "xxxxxxEND\n", string(res.Stdout))
	require.Equal(t, []string{strings.Repeat("x", 500)}, seen, "a line is cut")
}

func TestLinesAreHarmless(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	cmd := shell(`printf 'a\033[31mred\033[0m\tb\n\r10%%\r20%%\r\n\n\377\302\233x\342\200\256y\nlast'`)
	var seen []string
	cmd.OnLine = func(line string) { seen = append(seen, line) }
	_, err := c.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.Equal(t, []string{`a\x1b[31mred\x1b[0m b`, "10%", "20%", "", `\xff\u009bx\u202ey`, "last"}, seen)
}

func TestManyRunsAtOnce(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			cmd := shell("sleep 0.1; echo " + strconv.Itoa(i))
			cmd.Reap = i%2 == 0
			res, err := c.Run(t.Context(), cmd)
			if err != nil || string(res.Stdout) != strconv.Itoa(i)+"\n" {
				t.Errorf("run %d: %q, %v", i, res.Stdout, err)
			}
		})
	}
	group.Wait()
}

func TestAContainerThatStopsMeanwhileIsErrNotRunning(t *testing.T) {
	at, c := open(t, lab.Spec{VMID: 101})
	cmd := shell("echo up; sleep 60")
	cmd.OnLine = func(string) { go at.Stop() }
	cgroup, err := c.Cgroup()
	require.NoError(t, err)
	_, err = c.Run(t.Context(), cmd)
	require.ErrorIs(t, err, lxc.ErrNotRunning)
	require.NoError(t, at.Stop())
	require.NoDirExists(t, filepath.Dir(cgroup), "what is ours in it does not keep LXC from removing it")
	require.NoError(t, at.Start(t.Context()))
}

// LXC does not start a container whose cgroups are there already.
func TestAStopDuringARunLeavesNoCgroup(t *testing.T) {
	both(t, func(t *testing.T, at *lab.Container, c *lxc.Container) {
		for i := range 15 {
			c, err := lxc.Open(t.Context(), at.LXCPath, at.VMID)
			require.NoError(t, err)
			cgroup, err := c.Cgroup()
			require.NoError(t, err)
			ended := make(chan error)
			go func() {
				_, err := c.Run(t.Context(), shell("setsid sleep 60 & sleep 60"))
				ended <- err
			}()
			time.Sleep(time.Duration(i) * 3 * time.Millisecond)
			require.NoError(t, at.Stop())
			require.Error(t, <-ended)
			require.NoDirExists(t, filepath.Dir(cgroup))
			require.NoError(t, c.Close())
			require.NoError(t, at.Start(t.Context()))
		}
	})
}

func TestRunWithoutTimeoutIsRefused(t *testing.T) {
	_, c := open(t, lab.Spec{VMID: 101})
	_, err := c.Run(t.Context(), lxc.Cmd{Args: []string{"true"}})
	require.Error(t, err)
	_, err = c.Run(t.Context(), lxc.Cmd{Timeout: time.Second})
	require.Error(t, err)
}

func BenchmarkRunTrue(b *testing.B) {
	at := labtest.Start(b, lab.Spec{VMID: 101})
	c, err := lxc.Open(b.Context(), at.LXCPath, 101)
	require.NoError(b, err)
	defer c.Close()
	for b.Loop() {
		_, err := c.Run(b.Context(), lxc.Cmd{Args: []string{"true"}, Timeout: time.Minute})
		require.NoError(b, err)
	}
}
