package hook_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// older and newer are the driver versions of most tests: one of three parts with
// the options of its time, one of two parts.
const (
	older = "550.163.01"
	newer = "580.142"
)

// What all tests of this package share, made once.
var (
	program string // the built binary
	samples string // folder with sample run files
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pve-nvidia-hook-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = rig.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	samples = filepath.Join(dir, "samples")
	if err := os.Mkdir(samples, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, v := range []string{older, newer} {
		if _, err := fakerun.Write(samples, fakerun.Spec{Version: v}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// node is a rig with containers, for one test.
type node struct {
	*rig.Rig
	t   *testing.T
	lab *lab.Lab
}

// newNode makes a rig whose host has the module of a version loaded.
func newNode(t *testing.T, module string) *node {
	t.Helper()
	l := labtest.Open(t)
	r, err := rig.New(t.TempDir(), program, l.Path, samples)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.Module(module))
	n := &node{r, t, l}
	t.Cleanup(n.decideAllAgain)
	return n
}

// decideAllAgain feeds every trace that the test has kept back to the program,
// away from the node: it must come to the same plan.
func (n *node) decideAllAgain() {
	traces, err := filepath.Glob(n.Path("state/runs/*/*.json"))
	require.NoError(n.t, err)
	for _, trace := range traces {
		cmd := exec.Command(program, "replay", "--trace", trace)
		cmd.Env = []string{"PATH=/nonexistent", "TZ=Asia/Tokyo", "PVE_NVIDIA_HOOK_CONFIG=/nonexistent"}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "same decision\n") && !strings.Contains(string(out), "nothing to decide") {
			text, _ := os.ReadFile(trace)
			n.t.Errorf("%s is decided otherwise: %v\n%s\n%s", trace, err, out, text)
		}
	}
}

// start makes and starts a container.
func (n *node) start(spec lab.Spec) *guest {
	n.t.Helper()
	if spec.VMID == 0 {
		spec.VMID = 101
	}
	return &guest{labtest.StartIn(n.t, n.lab, spec), n}
}

// made makes a container and does not start it.
func (n *node) made(spec lab.Spec) *guest {
	n.t.Helper()
	c, err := n.lab.Container(n.t.Context(), spec)
	require.NoError(n.t, err)
	return &guest{c, n}
}

// run calls the program and expects an exit status.
func (n *node) run(code int, args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	said, err := n.Run(ctx, args...)
	require.NoError(n.t, err, said.Text)
	require.Equal(n.t, code, said.Code, said.Text)
	return said.Text
}

// runFileGets counts the requests for the run file of a version.
func (n *node) runFileGets(version string) int {
	return n.Mirror.Gets(fakerun.Spec{Version: version}.Name())
}

// configure writes settings of config.toml besides those of the rig.
func (n *node) configure(text string) {
	n.t.Helper()
	require.NoError(n.t, n.Configure(text))
}

// guest is a container of a test.
type guest struct {
	*lab.Container
	node *node
}

// postStart calls the hook for the container and expects an exit status.
func (g *guest) postStart(code int) string {
	g.node.t.Helper()
	return g.node.run(code, strconv.Itoa(g.VMID), "post-start")
}

// sh runs a script in the container and returns what it printed.
func (g *guest) sh(script string) string {
	g.node.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := g.Attach(ctx, "sh", "-c", script)
	require.NoError(g.node.t, err, out)
	return strings.TrimSpace(out)
}

// file returns the path of a file of the container as the host sees it.
func (g *guest) file(name string) string { return filepath.Join(g.Root, name) }

// holds expects a working driver of a version, a record of it and nothing left
// over from the installation.
func (g *guest) holds(version string) {
	g.node.t.Helper()
	t := g.node.t
	require.Contains(t, g.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader"), version)
	require.FileExists(t, g.file("usr/lib/x86_64-linux-gnu/libcuda.so."+version))
	record, err := os.ReadFile(g.file("var/lib/pve-nvidia-hook/installed.json"))
	require.NoError(t, err)
	require.Contains(t, string(record), `"version": "`+version+`"`)
	g.clean()
}

// clean expects that no file, mount or process of an installation is left.
func (g *guest) clean() {
	g.node.t.Helper()
	t := g.node.t
	require.NoDirExists(t, g.file("var/lib/pve-nvidia-hook/stage"))
	require.Equal(t, "", g.sh("grep /var/lib/pve-nvidia-hook /proc/self/mounts || true"))
	require.Equal(t, "", g.sh("ls -d /tmp/selfgz* /tmp/makeself* /tmp/*.run 2>/dev/null || true"))
	require.Equal(t, "", g.sh(`for p in /proc/[0-9]*; do grep -qs '/pve-nvidia-hook[.][A-Z0-9]*$' $p/cgroup && cat $p/comm; done; true`))
}

// unrecorded expects that nothing is claimed to be installed.
func (g *guest) unrecorded() {
	g.node.t.Helper()
	require.NoFileExists(g.node.t, g.file("var/lib/pve-nvidia-hook/installed.json"))
	g.clean()
}
