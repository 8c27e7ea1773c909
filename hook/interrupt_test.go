package hook_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// interrupt calls the hook, sends SIGTERM to its process group when ready says
// so, as stopping the task in Proxmox does, and expects its end within 2 s.
func (n *node) interrupt(vmid int, ready func() bool) {
	n.t.Helper()
	cmd := n.Command(n.t.Context(), strconv.Itoa(vmid), "post-start")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(n.t, cmd.Start())
	require.Eventually(n.t, ready, 30*time.Second, 5*time.Millisecond)
	began := time.Now()
	require.NoError(n.t, syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM))
	_ = cmd.Wait() // the exit status is looked at below
	require.Less(n.t, time.Since(began), 2*time.Second)
	require.Equal(n.t, 1, cmd.ProcessState.ExitCode())
}

// ours are the names of the processes in the container that the hook has started.
func (g *guest) ours() []string {
	out, _ := g.Attach(g.node.t.Context(), "sh", "-c",
		`for p in /proc/[0-9]*; do grep -qs '/pve-nvidia-hook[.][A-Z0-9]*$' $p/cgroup && cat $p/comm; done`)
	return strings.Fields(out)
}

func TestSIGTERMUndoesEachStep(t *testing.T) {
	t.Run("fetch", func(t *testing.T) {
		n := newNode(t, newer)
		g := n.start(lab.Spec{})
		n.Mirror.Rate = 100 << 10
		n.interrupt(g.VMID, func() bool { return n.runFileGets(newer) > 0 })
		g.unrecorded()
		names, err := filepath.Glob(filepath.Join(n.Cache(), "NVIDIA-*"))
		require.NoError(t, err)
		for _, name := range names {
			require.NotRegexp(t, `\.run$|-`+newer+`$`, name, "nothing half-done bears a final name")
		}
	})
	t.Run("unpack", func(t *testing.T) {
		n := newNode(t, newer)
		g := n.start(lab.Spec{})
		require.NoError(t, os.Mkdir(n.Cache(), 0o755))
		_, err := fakerun.Write(n.Cache(), fakerun.Spec{Version: newer, Size: 100e6})
		require.NoError(t, err)
		final := filepath.Join(n.Cache(), "NVIDIA-Linux-x86_64-"+newer)
		n.interrupt(g.VMID, func() bool {
			made, _ := filepath.Glob(final + ".*/*") // a tree that has not got its name yet
			return len(made) > 0
		})
		require.NoDirExists(t, final)
		g.unrecorded()
		g.postStart(0)
		g.holds(newer)
	})
	t.Run("removal of the old driver", func(t *testing.T) {
		n := newNode(t, older)
		g := n.start(lab.Spec{})
		g.postStart(0)
		g.sh("rm /usr/bin/nvidia-uninstall; printf '#!/bin/sh\\nexec sleep 1000\\n' >/usr/bin/nvidia-uninstall; chmod +x /usr/bin/nvidia-uninstall")
		require.NoError(t, n.Module(newer))
		n.interrupt(g.VMID, func() bool { return slices.Contains(g.ours(), "sleep") })
		g.unrecorded()
		g.sh("rm /usr/bin/nvidia-uninstall")
		g.postStart(0)
		g.holds(newer)
	})
	for step, c := range map[string]struct{ fault, file, process string }{
		"install":              {"hang", "sample-nvidia-installer", "sleep"},
		"install that resists": {"hang-ignore-term", "sample-nvidia-installer", "sleep"},
		"install with a child": {"fork hang", "sample-nvidia-installer", "sleep"},
		"install by push":      {"hang", "sample-nvidia-installer", "sleep"},
		"verify":               {"hang", "sample-nvidia-smi", "sleep"},
	} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t, newer)
			g := n.start(lab.Spec{Privileged: step == "install"})
			if step == "install by push" {
				n.configure("[install]\ndeliver = \"push\"\n")
			}
			g.sh("echo '" + c.fault + "' >/etc/" + c.file)
			n.interrupt(g.VMID, func() bool { return slices.Contains(g.ours(), c.process) })
			g.unrecorded()
			g.sh("rm /etc/" + c.file)
			g.postStart(0)
			g.holds(newer)
		})
	}
	t.Run("toolkit", func(t *testing.T) {
		asked := make(chan struct{}, 100)
		silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			<-r.Context().Done()
		}))
		defer silent.Close()
		n := newNode(t, newer)
		n.configure("[install]\nbackground = \"never\"\n[cuda]\ntoolkit = \"12.8\"\nrepo_url = \"" + silent.URL + "/\"\n")
		g := n.start(lab.Spec{Privileged: true, HostNet: true})
		n.interrupt(g.VMID, func() bool { return len(asked) > 0 })
		g.holds(newer) // the driver was done before
		n.configure("")
		g.postStart(0)
	})
}

// The old driver is removed when the worker is killed, by the kernel when memory runs
// out. Nobody says then that it is still there.
func TestAKilledWorkerLeavesNoDriverThatIsTold(t *testing.T) {
	n := newNode(t, older)
	g := n.start(lab.Spec{})
	g.postStart(0)
	g.holds(older)
	require.NoError(t, n.Module(newer))
	g.sh("echo slow=0.05 >/etc/sample-nvidia-installer")
	var said strings.Builder
	cmd := n.Command(t.Context(), strconv.Itoa(g.VMID), "post-start")
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return slices.Contains(g.ours(), "nvidia-installe") }, 30*time.Second, 5*time.Millisecond)
	killed := false
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/*/children")
	require.NoError(t, err)
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, child := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(child)
			require.NoError(t, err)
			killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
		}
	}
	require.True(t, killed)
	_ = cmd.Wait()
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), said.String())
	require.Contains(t, said.String(), "how far it got is unknown")
	require.NotContains(t, said.String(), "driver "+older+" stays")
	require.NotContains(t, n.run(0, "status", "--json", strconv.Itoa(g.VMID)), `"installed": "`+older+`"`)
	g.sh("rm /etc/sample-nvidia-installer")
	g.postStart(0)
	g.holds(newer)
}
