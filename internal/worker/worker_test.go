package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The tests call this binary again, which does what the program does: one process
// that watches and one that works, of which the first argument says what.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "program" {
		os.Exit(m.Run())
	}
	if Is() {
		work(os.Args[2])
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var told json.RawMessage
	report, err := Do(ctx, Job{Told: &told})
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "watch:", err)
	}
	if errors.Is(err, ErrUnconcluded) {
		os.Exit(1)
	}
	fmt.Print(string(told))
	os.Exit(report.Status)
}

func work(what string) {
	fmt.Println(os.Getpid())
	switch what {
	case "status":
		fmt.Fprintln(os.Stderr, "said on stderr")
		n, _ := io.Copy(io.Discard, os.Stdin)
		fmt.Println(n, "bytes on stdin")
		Exit(7)
	case "many":
		for i := range 20000 {
			fmt.Println("line", i)
			fmt.Fprintln(os.Stderr, "note", i)
		}
		Exit(0)
	case "tells":
		Tell(map[string]string{"result": "installed"})
		Exit(1)
	case "ends otherwise":
		_ = json.NewEncoder(os.NewFile(reportFd, "")).Encode(Report{Done: true})
		os.Exit(66)
	case "is stopped":
		Tell("half of it")
		Break(1)
	case "tells without end":
		Tell(strings.Repeat("x", 2*maxReport))
		Exit(0)
	case "exits by itself":
		os.Exit(5)
	case "killed":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "told":
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("ready")
		<-term
		Exit(3)
	case "leaves a child":
		child := exec.Command("sleep", "20")
		child.Stdout = os.Stdout
		_ = child.Start()
		Exit(0)
	case "child":
		// What it starts is no worker and has not its report.
		out, _ := exec.Command("sh", "-c", "env; ls /proc/self/fd").Output()
		os.Stdout.Write(out)
		Exit(0)
	}
	time.Sleep(time.Minute)
	os.Exit(9)
}

func program(what string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "program", what)
	cmd.Stdin = strings.NewReader("text on stdin\n")
	return cmd
}

func TestStatusAndOutputAreThoseOfTheWorker(t *testing.T) {
	var out, errOut bytes.Buffer
	cmd := program("status")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.Error(t, cmd.Run())
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
	_, rest, _ := strings.Cut(out.String(), "\n")
	require.Equal(t, "0 bytes on stdin\n", rest)
	require.Equal(t, "said on stderr\n", errOut.String())

	require.NotEqual(t, fmt.Sprint(cmd.Process.Pid), strings.Fields(out.String())[0], "it is another process")
}

// With one pipe for both, as in a shell's 2>&1, no line overtakes another, and all
// are there when the program has ended.
func TestNoLineIsLostOrOvertaken(t *testing.T) {
	out, err := program("many").CombinedOutput()
	require.NoError(t, err)
	var want strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&want, "line %d\nnote %d\n", i, i)
	}
	_, rest, _ := strings.Cut(string(out), "\n")
	require.Equal(t, want.String(), rest)
}

func TestAWorkerThatTellsNoStatus(t *testing.T) {
	for what, want := range map[string]string{
		"exits by itself": `process \d+, which worked on the container, exited without a report: exit status 5`,
		"killed":          `process \d+, which worked on the container, was killed`,
		"ends otherwise":  `the process that worked on the container ended unexpectedly: exit status 66`,
		"is stopped":      `the process that worked on the container was stopped before its end`,
		// Nobody reads that much of it.
		"tells without end": `process \d+, which worked on the container, exited without a report`,
	} {
		cmd := program(what)
		var said strings.Builder
		cmd.Stderr = &said
		require.Equal(t, 1, exitCode(t, cmd))
		require.Regexp(t, want, said.String())
	}
}

func TestWhatTheWorkerTellsArrives(t *testing.T) {
	out, err := program("tells").Output()
	require.Error(t, err)
	_, rest, _ := strings.Cut(string(out), "\n")
	require.Equal(t, `{"result":"installed"}`, rest)
}

// A reader that takes its time gets all.
func TestASlowReaderMissesNothing(t *testing.T) {
	cmd := program("many")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	time.Sleep(endWait + time.Second)
	all, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.True(t, strings.HasSuffix(string(all), "\nline 19999\n"))
	require.Equal(t, 20001, strings.Count(string(all), "\n"))
}

// What it has started and left running does not hold up anybody.
func TestAChildThatStaysIsNotWaitedFor(t *testing.T) {
	began := time.Now()
	cmd := program("leaves a child")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestTheWorkerGetsNothingElseOfTheCallers(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	cmd := program("told")
	cmd.ExtraFiles = []*os.File{write, write, write} // 3 to 5, as a caller may leak them
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	write.Close()
	pid := workerPid(t, stdout)
	theirs, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", read.Fd()))
	require.NoError(t, err)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	require.NotEmpty(t, fds)
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		require.NotEqual(t, theirs, to)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
}

func TestWhatTheWorkerStartsIsNone(t *testing.T) {
	out, err := program("child").Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), env)
	require.NotContains(t, "\n"+string(out), "\n"+strconv.Itoa(reportFd)+"\n"+strconv.Itoa(reportFd+1)+"\n")
}

func TestTheVariableAloneMakesNoWorker(t *testing.T) {
	cmd := program("status")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Contains(t, string(out), "0 bytes on stdin")
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
}

// Nor does it with a pipe in the place of the report, when another program has set it.
func TestOnlyThisProgramMakesAWorker(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	cmd := exec.Command("sh", "-c", `"$0" program status; exit $?`, self) // so that sh stays its parent
	cmd.ExtraFiles = []*os.File{write}
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.Stdin = strings.NewReader("text on stdin\n")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Contains(t, string(out), "0 bytes on stdin", "it has a worker, whose stdin is none")
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
}

func TestASignalIsPassedOn(t *testing.T) {
	cmd := program("told")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	pid := workerPid(t, stdout)
	_, err = fmt.Fscanln(stdout, new(string)) // ready
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.True(t, gone(pid))
}

func TestTheWorkerDiesWithTheOneThatWatches(t *testing.T) {
	cmd := program("sleeps")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	pid := workerPid(t, stdout)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return gone(pid) }, 5*time.Second, time.Millisecond)
}

func workerPid(t *testing.T, stdout io.Reader) int {
	t.Helper()
	var pid int
	_, err := fmt.Fscanln(stdout, &pid)
	require.NoError(t, err)
	return pid
}

// gone reports whether no such process lives; its parent may be yet to learn it.
func gone(pid int) bool {
	return errors.Is(unix.Kill(pid, 0), unix.ESRCH) || dead(pid)
}

func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	return exit.ExitCode()
}
