package hook_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// heard is what Proxmox gets from a hook.
type heard struct {
	stdout, stderr string
	code           int
	elapsed, after time.Duration // after: between the end of the process and that of the last pipe
}

// asProxmox calls the hook as Proxmox's exec_hookscript does: stdin at its end,
// stdout and stderr two pipes, both of which are read to their end. Proxmox has
// no limit for this; the test has.
func (n *node) asProxmox(vmid int, phase string) heard {
	n.t.Helper()
	cmd := n.Command(n.t.Context(), strconv.Itoa(vmid), phase)
	var h heard
	ends := make(chan time.Time, 2)
	var ours []*os.File
	for _, to := range []struct {
		set  *io.Writer
		text *string
	}{{&cmd.Stdout, &h.stdout}, {&cmd.Stderr, &h.stderr}} {
		r, w, err := os.Pipe()
		require.NoError(n.t, err)
		defer r.Close()
		*to.set, ours = w, append(ours, w)
		go func() {
			data, _ := io.ReadAll(r)
			*to.text = string(data)
			ends <- time.Now()
		}()
	}
	began := time.Now()
	require.NoError(n.t, cmd.Start())
	for _, w := range ours {
		require.NoError(n.t, w.Close())
	}
	_ = cmd.Wait() // the exit status is looked at below
	ended := time.Now()
	h.code, h.elapsed = cmd.ProcessState.ExitCode(), ended.Sub(began)
	for range 2 {
		select {
		case at := <-ends:
			h.after = max(h.after, at.Sub(ended))
		case <-time.After(10 * time.Second):
			n.t.Fatal("a pipe is still held open 10 s after the hook has ended: Proxmox would wait on")
		}
	}
	return h
}

// prompt expects that nobody held a pipe longer than the hook lived.
func (h heard) prompt(t *testing.T) heard {
	t.Helper()
	require.Less(t, h.after, time.Second)
	return h
}

func TestPipesEndWithTheHook(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo fork >/etc/sample-nvidia-installer") // a daemon that holds stdout and ignores SIGTERM
	h := n.asProxmox(g.VMID, "post-start").prompt(t)
	require.Zero(t, h.code, h.stderr)
	require.Contains(t, h.stdout+h.stderr, "is installed and nvidia-smi works")
	g.holds(newer)
	for _, phase := range []string{"post-start", "pre-start", "pre-stop", "post-stop"} {
		h := n.asProxmox(g.VMID, phase).prompt(t)
		require.Zero(t, h.code, h.stderr)
		if phase != "post-start" {
			require.Empty(t, h.stdout+h.stderr, phase)
		}
	}
}

func TestWithoutSystemdTheBackgroundIsTheForeground(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\nbackground = \"always\"\n")
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		// Not in the sight of the hook, though.
		hidden := "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none /run/systemd && exec \"$0\" \"$@\"' " + n.Program + " \"$@\"\n"
		n.Program = n.Path("hidden")
		require.NoError(t, os.WriteFile(n.Program, []byte(hidden), 0o755))
	}
	g := n.start(lab.Spec{})
	h := n.asProxmox(g.VMID, "post-start").prompt(t)
	require.Zero(t, h.code, h.stderr)
	require.Contains(t, h.stderr, "systemd does not run here, so the work is done in the foreground")
	g.holds(newer)
}

func TestBrokenConfigurationKeepsNoGuestFromStartingOrStopping(t *testing.T) {
	n := newNode(t, newer)
	require.NoError(t, os.WriteFile(n.Path("config.toml"), []byte("[driver\nversion = 1\nnonsense"), 0o644))
	for _, phase := range []string{"pre-start", "pre-stop", "post-stop"} {
		h := n.asProxmox(101, phase).prompt(t)
		require.Zero(t, h.code)
		require.Empty(t, h.stdout+h.stderr, phase)
	}
	h := n.asProxmox(101, "post-start").prompt(t)
	require.Equal(t, 1, h.code)
	require.Contains(t, h.stderr, "config.toml:")
	require.Regexp(t, `nothing was changed \([0-9.]+ s\)\n$`, h.stderr)
}

// chain puts a second hookscript aside for container 101, as enable --chain
// does. It notes its calls and ends with a status of its own.
func (n *node) chain(status int) (calls func() string) {
	n.t.Helper()
	file := func(name, text string, mode os.FileMode) {
		require.NoError(n.t, os.MkdirAll(filepath.Dir(n.Path(name)), 0o700))
		require.NoError(n.t, os.WriteFile(n.Path(name), []byte(text), mode))
	}
	file("host/etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n", 0o644)
	file("host/var/lib/vz/snippets/mine.sh", fmt.Sprintf("#!/bin/sh\necho \"mine: $*\"\necho \"$# $*${GOMAXPROCS-}\" >>%s\nexit %d\n", n.Path("calls"), status), 0o755)
	n.Env = append(n.Env, snippet.Env+"="+n.Path("host/var/lib/vz/snippets/"+snippet.Chaining("mine.sh")), "GOMAXPROCS=1")
	return func() string {
		text, _ := os.ReadFile(n.Path("calls"))
		_ = os.Remove(n.Path("calls"))
		return string(text)
	}
}

func TestChainedHookscriptRunsInEachPhaseAndItsStatusCounts(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	calls := n.chain(7)
	for _, phase := range []string{"pre-start", "post-start", "pre-stop", "post-stop"} {
		h := n.asProxmox(g.VMID, phase).prompt(t)
		require.Equal(t, 7, h.code, h.stderr)
		require.Equal(t, "2 101 "+phase+"\n", calls())
		require.Equal(t, "mine: 101 "+phase+"\n", h.stdout)
	}
	g.holds(newer)

	n.chain(0)
	require.NoError(t, n.Module("")) // our own work fails
	h := n.asProxmox(g.VMID, "post-start").prompt(t)
	require.Equal(t, 1, h.code)
	require.Equal(t, "2 101 post-start\n", calls(), "it runs whatever came of our own work")
	require.Zero(t, n.asProxmox(g.VMID, "pre-start").code)
}

// A script that was there before may call this program itself, as was the way to have
// both. Without an end each call would start the next one.
func TestChainedHookscriptThatCallsTheHookIsRunOnce(t *testing.T) {
	n := newNode(t, newer)
	calls := n.chain(0)
	mine := n.Path("host/var/lib/vz/snippets/mine.sh")
	text := fmt.Sprintf("#!/bin/sh\necho \"$# $*\" >>%[1]s\n[ $(wc -l <%[1]s) -lt 5 ] && %[2]s \"$@\" && %[2]s 102 \"$2\"\nexit 0\n", n.Path("calls"), n.Program)
	require.NoError(t, os.WriteFile(mine, []byte(text), 0o755))
	h := n.asProxmox(101, "pre-start").prompt(t)
	require.Zero(t, h.code, h.stderr)
	require.Equal(t, "2 101 pre-start\n2 102 pre-start\n", calls(), "another guest that it starts has its own")
}

func TestChainedHookscriptThatIsGoneIsSaid(t *testing.T) {
	n := newNode(t, newer)
	n.chain(0)
	require.NoError(t, os.Remove(n.Path("host/var/lib/vz/snippets/mine.sh")))
	h := n.asProxmox(101, "pre-start").prompt(t)
	require.Equal(t, 1, h.code)
	require.Contains(t, h.stderr, "snippets/mine.sh: no such file or directory\n")
	require.Contains(t, h.stderr, "hint: ")
}

func TestContainersThatNobodyWantsADriverInAreLeftAlone(t *testing.T) {
	phoenix := filepath.Join(t.TempDir(), "phoenix_lxc_configs.json")
	require.NoError(t, os.WriteFile(phoenix, []byte(`{"lxc_configs":{"101":{"name":"web","features":["docker"]},"105":{"features":["nvidia"]}}}`), 0o644))
	for name, config := range map[string]string{
		"enabled = false":    "[containers.101]\nenabled = false\n",
		"Phoenix has no GPU": "[phoenix]\nlxc_configs = \"" + phoenix + "\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, newer)
			n.configure(config)
			h := n.asProxmox(101, "post-start").prompt(t) // which does not even run
			require.Zero(t, h.code, h.stderr)
			require.Contains(t, h.stderr, "no driver is wanted")
			require.Equal(t, 1, strings.Count(h.stderr, "\n"), h.stderr)
			require.Less(t, h.elapsed, 2*time.Second)
			require.Zero(t, n.Mirror.Total())
		})
	}
}

func TestInitThatIsJustStartingIsWaitedFor(t *testing.T) {
	n := newNode(t, newer)
	c, err := n.lab.Container(t.Context(), lab.Spec{VMID: 101})
	require.NoError(t, err)
	done := make(chan heard, 1)
	go func() { done <- n.asProxmox(101, "post-start") }()
	require.Eventually(t, func() bool { // it has its lock: it looks for the container
		_, err := os.Stat(n.Path("run/101.lock"))
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, c.Start(t.Context()))
	h := <-done
	require.Zero(t, h.code, h.stderr)
	(&guest{c, n}).holds(newer)
}

func TestInitThatIsGoneIsSaid(t *testing.T) {
	labtest.Need(t)
	n := newNode(t, newer)
	c, err := n.lab.Container(t.Context(), lab.Spec{VMID: 101})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	require.NoError(t, c.Stop())
	h := n.asProxmox(101, "post-start").prompt(t)
	require.Equal(t, 1, h.code)
	require.Contains(t, h.stderr, "not running")
	require.Contains(t, h.stderr, "hint: its init process is gone")
	require.Less(t, h.elapsed, 20*time.Second)
}

func TestContainerThatStopsEndsItsDownload(t *testing.T) {
	n := newNode(t, newer)
	n.Mirror.Rate = 20 << 10 // minutes, were it not ended
	g := n.start(lab.Spec{})
	done := make(chan heard, 1)
	go func() { done <- n.asProxmox(g.VMID, "post-start") }()
	require.Eventually(t, func() bool { return n.runFileGets(newer) > 0 }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, g.Stop())
	select {
	case h := <-done:
		require.Equal(t, 1, h.code)
		require.Contains(t, h.stderr, "the container stopped meanwhile")
	case <-time.After(10 * time.Second):
		t.Fatal("the download goes on for a container that is gone")
	}
	failures, err := filepath.Glob(n.Path("state/failures/*.json"))
	require.NoError(t, err)
	require.Empty(t, failures, "the next start must try at once")
}

// A start holds the container's lock of Proxmox while its hook runs, so pct
// would wait for its own caller.
func TestHookNeverCallsPct(t *testing.T) {
	n := newNode(t, newer)
	bin := t.TempDir()
	for _, name := range []string{"pct", "pvesh", "pvesm", "qm"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho $0 $* >>"+bin+"/calls\n"), 0o755))
	}
	n.Env = append(n.Env, "PATH="+bin+":/sbin:/bin:/usr/sbin:/usr/bin")
	n.configure("[install]\ndeliver = \"push\"\n")
	g := n.start(lab.Spec{})
	for _, phase := range []string{"pre-start", "post-start", "post-start", "pre-stop", "post-stop"} {
		require.Zero(t, n.asProxmox(g.VMID, phase).code)
	}
	require.NoFileExists(t, filepath.Join(bin, "calls"))
}
