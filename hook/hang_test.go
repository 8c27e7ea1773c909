package hook_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// A container may mount a file system whose server reads every request and never
// answers. A process that runs into it cannot even be killed: its caller, a start
// of the container, would wait for ever.
func TestAFileSystemThatNeverAnswersIsCutOff(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	ended := func(then func(pid int), limit time.Duration) {
		require.NoError(t, g.Wedge(t.Context(), "/var/lib/pve-nvidia-hook"))
		g.endsWithin(limit, then, "replay", strconv.Itoa(g.VMID), "post-start", "--force")
		g.sh("umount -l /var/lib/pve-nvidia-hook")
	}
	ended(terminate, 5*time.Second)
	if long() {
		ended(nil, 100*time.Second)
	}
	said, code := g.anyhow("--force")
	require.Zero(t, code, said)
	g.holds(newer)
}

// One that cannot be found cannot be cut off: then nobody waits for who hangs in it.
func TestAFileSystemThatCannotBeFoundHoldsNobodyUp(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	g.postStart(0)
	require.NoError(t, g.WedgeBehindOverlay(t.Context(), "/var/lib/pve-nvidia-hook"))
	said := g.endsWithin(5*time.Second, terminate, strconv.Itoa(g.VMID), "post-start")
	require.Regexp(t, `process \d+ does not end and is left behind`, said)
	pid := regexp.MustCompile(`process (\d+) does not end`).FindStringSubmatch(said)[1]
	require.DirExists(t, "/proc/"+pid)
	require.Contains(t, n.lastRun(g.VMID), `"a system call on the container's files does not return"`)
	// Nor for one that was killed, for want of memory say.
	said = g.endsWithin(10*time.Second, func(hook int) {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", hook))
		require.NoError(t, err)
		var workers []string
		for _, list := range lists {
			pids, _ := os.ReadFile(list)
			workers = append(workers, strings.Fields(string(pids))...)
		}
		require.Len(t, workers, 1)
		worker, err := strconv.Atoi(workers[0])
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(worker, syscall.SIGKILL))
	}, strconv.Itoa(g.VMID), "post-start")
	require.Regexp(t, `process \d+ was killed but does not end and is left behind`, said)
	require.Regexp(t, `"reason":"process \d+ was killed`, n.lastRun(g.VMID))
	require.Contains(t, said, "nothing was changed", "it was only to look")
	require.Contains(t, n.lastRun(g.VMID), `"wanted":"`+newer+`"`, "what was decided is known")
	// Whoever comes next does not wait for the lock of one that hangs.
	said = g.endsWithin(5*time.Second, terminate, strconv.Itoa(g.VMID), "post-start")
	require.NotContains(t, said, "waiting for another run")
	for _, args := range [][]string{{"uninstall", strconv.Itoa(g.VMID)}, {"replay", strconv.Itoa(g.VMID), "post-start"}, {"apply", strconv.Itoa(g.VMID)}} {
		said = g.endsWithin(5*time.Second, terminate, args...)
		require.NotContains(t, said, "waiting for another run")
		require.Contains(t, said, "is left behind")
		require.Equal(t, 1, strings.Count(said, "a system call on the container's files does not return"), said)
	}
	if long() {
		said := g.endsWithin(100*time.Second, nil, strconv.Itoa(g.VMID), "post-start")
		require.Contains(t, said, "a system call on the container's files does not return")
		require.Contains(t, said, "is left behind")
	}
	begin := time.Now()
	require.Contains(t, n.run(0, "status", strconv.Itoa(g.VMID)), "the container's files do not answer")
	require.Less(t, time.Since(begin), 20*time.Second)

	require.NoError(t, g.Stop())
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "it ends with the container")
	require.NoError(t, g.Start(t.Context()))
	g.postStart(0)
	g.holds(newer)
}

// Nor does a caller that has stopped reading: the last words are not waited for.
func TestACallerThatDoesNotReadHoldsNothingUp(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	g.postStart(0)
	require.NoError(t, g.WedgeBehindOverlay(t.Context(), "/var/lib/pve-nvidia-hook"))
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	require.NoError(t, write.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = write.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the pipe is full")
	cmd := n.Command(t.Context(), strconv.Itoa(g.VMID), "post-start")
	cmd.Stdout, cmd.Stderr = write, write
	g.ends(cmd, 5*time.Second, terminate)
}

func terminate(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// A program of the container that lies on such a file system hangs before it begins.
func TestAProgramThatCannotBeReadHoldsNobodyUp(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"5s\"\n")
	g := n.start(lab.Spec{Privileged: true})
	require.NoError(t, g.WedgeReads(t.Context(), "/srv/wedge"))
	g.sh("ln -sf /srv/wedge/sh /usr/bin/sh")
	said := g.endsWithin(60*time.Second, nil, strconv.Itoa(g.VMID), "post-start")
	require.Contains(t, said, "5s")
}

// In one apply the others do not wait for it either, though the end of its file is
// asked of its server even by what only inherits it for a moment.
func TestAContainerThatHangsIsNoMatterOfOthers(t *testing.T) {
	n := newNode(t, newer)
	bad, good := n.start(lab.Spec{Privileged: true}), n.start(lab.Spec{VMID: 102})
	bad.postStart(0)
	require.NoError(t, bad.WedgeBehindOverlay(t.Context(), "/var/lib/pve-nvidia-hook"))
	said := bad.endsWithin(60*time.Second, func(pid int) {
		defer terminate(pid)
		require.Eventually(t, func() bool {
			_, err := os.Stat(good.file(record.Path))
			return err == nil
		}, 50*time.Second, 50*time.Millisecond)
		time.Sleep(time.Second) // its process says the rest
	}, "apply", "101", "102")
	require.Contains(t, said, "2 containers: 1 installed, 1 failed (101)")
	good.holds(newer)
}

// lastRun is the newest trace of a container.
func (n *node) lastRun(vmid int) string {
	files, err := filepath.Glob(n.Path("state", "runs", strconv.Itoa(vmid), "*.json"))
	require.NoError(n.t, err)
	require.NotEmpty(n.t, files)
	data, err := os.ReadFile(slices.Max(files))
	require.NoError(n.t, err)
	return string(data)
}

// Nor does the one that only looks hang, where the root itself is served.
func TestAContainerWhoseRootIsServedHoldsNobodyUp(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	require.NoError(t, g.ServeRoot(t.Context()))
	said := g.endsWithin(5*time.Second, terminate, strconv.Itoa(g.VMID), "post-start")
	require.NotContains(t, said, "stopped before all was cleaned up")
}

// The lock of a folder, which a process of the container can hold for ever, is no
// file system that could be cut off.
func TestAFolderThatIsHeldHoldsNobodyUp(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{Privileged: true})
	require.NoError(t, g.Hold(t.Context(), "/var/lib"))
	g.endsWithin(5*time.Second, terminate, strconv.Itoa(g.VMID), "post-start")
	if long() {
		said := g.endsWithin(100*time.Second, nil, strconv.Itoa(g.VMID), "post-start")
		require.Contains(t, said, "a system call on the container's files does not return")
	}
}

// endsWithin calls the program, which is to hang in the container, does something
// to its process then, and returns what it said.
func (g *guest) endsWithin(limit time.Duration, then func(pid int), args ...string) string {
	t := g.node.t
	cmd := g.node.Command(t.Context(), args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	g.ends(cmd, limit, then)
	t.Logf("ended after %v: %s", time.Since(began), said.String())
	return said.String()
}

// ends expects that a command which hangs in the container fails within a limit.
func (g *guest) ends(cmd *exec.Cmd, limit time.Duration, then func(pid int)) {
	g.endsAs(1, cmd, limit, then)
}

// endsAs is ends with an exit status.
func (g *guest) endsAs(code int, cmd *exec.Cmd, limit time.Duration, then func(pid int)) {
	t := g.node.t
	require.NoError(t, cmd.Start())
	if then != nil {
		time.Sleep(300 * time.Millisecond) // into the file system
		then(cmd.Process.Pid)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(limit):
		_ = g.Stop() // which ends the server and so frees the program
		_ = cmd.Process.Kill()
		<-done
		t.Fatalf("it did not end within %v: %s", limit, cmd.Stdout)
	}
	require.Equal(t, code, cmd.ProcessState.ExitCode())
}
