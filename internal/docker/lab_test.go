package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// engines has Debian's Docker and podman.
var engines = lab.Base{Name: "engines", Suite: "trixie", Add: []string{"systemd-sysv", "dbus", "docker.io", "podman"}}

// command runs a program here.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// guest is a container with the engines, NVIDIA's own nvidia-ctk built from its
// module, and a stand-in for the driver: nodes and an NVML that knows one GPU.
type guest struct {
	t *testing.T
	*lab.Container
	in   *lxc.Container
	said []string
}

func (g *guest) Infof(f string, args ...any) { g.said = append(g.said, fmt.Sprintf(f, args...)) }
func (g *guest) Warnf(f string, args ...any) { g.said = append(g.said, fmt.Sprintf(f, args...)) }

func start(t *testing.T) *guest {
	t.Helper()
	g := startWith(t)
	g.driver("580.95.05")
	return g
}

// startWith starts a guest without a driver.
func startWith(t *testing.T, config ...string) *guest {
	t.Helper()
	labtest.Program(t, "gcc")
	l := labtest.Open(t)
	nodes := config
	for _, name := range []string{"nvidia0", "nvidiactl", "nvidia-uvm"} {
		nodes = append(nodes, "lxc.mount.entry = /dev/null dev/"+name+" none bind,create=file")
	}
	g := &guest{t: t, Container: labtest.StartIn(t, l, lab.Spec{VMID: 101, Base: &engines, ExtraConfig: nodes})}
	require.NoError(t, g.WaitBooted(t.Context()))
	in, err := lxc.Open(context.Background(), g.LXCPath, g.VMID)
	require.NoError(t, err)
	t.Cleanup(func() { in.Close() })
	g.in = in
	require.False(t, Present(in))
	g.tool("nvidia-ctk")
	return g
}

// tool builds a program of the toolkit into the container. Of the libraries there it
// needs libc alone.
func (g *guest) tool(name string) {
	g.t.Helper()
	command(g.t, "go", "build", "-modfile=../../packaging/ctk.mod", "-o", filepath.Join(g.Root, "usr/bin", name),
		"github.com/NVIDIA/nvidia-container-toolkit/cmd/"+name)
}

func (g *guest) driver(version string) {
	g.t.Helper()
	libraries(g.t, filepath.Join(g.Root, "usr/lib/x86_64-linux-gnu"), version)
	_, err := g.Attach(g.t.Context(), "ldconfig")
	require.NoError(g.t, err)
}

// libraries puts the stand-ins of a version into a folder, in the place of those of another.
func libraries(t *testing.T, dir, version string) {
	t.Helper()
	for _, lib := range []string{"libcuda.so", "libnvidia-ml.so"} {
		was, _ := filepath.Glob(filepath.Join(dir, lib+".*"))
		for _, name := range was {
			require.NoError(t, os.Remove(name))
		}
		command(t, "gcc", "-shared", "-fPIC", `-DVERSION="`+version+`"`, "-Wl,-soname,"+lib+".1", "-o", filepath.Join(dir, lib+"."+version), "testdata/nvml.c")
		require.NoError(t, os.Symlink(lib+"."+version, filepath.Join(dir, lib+".1")))
	}
}

func (g *guest) write(name, text string) {
	g.t.Helper()
	file := filepath.Join(g.Root, name)
	require.NoError(g.t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(g.t, os.WriteFile(file, []byte(text), 0o644))
	for _, name := range []string{filepath.Dir(file), file} {
		require.NoError(g.t, os.Chown(name, lab.Shift, lab.Shift))
	}
}

func (g *guest) read(name string) string {
	g.t.Helper()
	text, err := g.in.ReadFile(name, 1<<20)
	require.NoError(g.t, err)
	return string(text)
}

func (g *guest) run(args ...string) string {
	g.t.Helper()
	out, err := g.Attach(g.t.Context(), args...)
	require.NoError(g.t, err, out)
	return out
}

// runtimes are those that dockerd itself names.
func (g *guest) runtimes() []string {
	g.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root/run/docker.sock", g.in.Pid()))
	}}}
	answer, err := client.Get("http://docker/info")
	require.NoError(g.t, err)
	defer answer.Body.Close()
	var info struct{ Runtimes map[string]any }
	require.NoError(g.t, json.NewDecoder(answer.Body).Decode(&info))
	var names []string
	for name := range info.Runtimes {
		names = append(names, name)
	}
	return names
}

func TestTheEnginesFollowTheDriver(t *testing.T) {
	g := start(t)
	ctx := t.Context()
	g.write("etc/docker/daemon.json", `{"log-driver": "journald", "runtimes": {"mine": {"path": "/usr/bin/crun"}}}`)
	g.write("etc/nvidia-container-runtime/config.toml", "# mine\n"+shipped)
	g.run("systemctl", "restart", "docker")
	pid := g.run("systemctl", "show", "-p", "MainPID", "docker")
	require.NotContains(t, g.runtimes(), "nvidia")

	job := Job{Driver: "580.95.05", GPU: true, Log: g}
	in, err := Setup(ctx, g.in, job)
	require.NoError(t, err)
	require.Equal(t, Installed{OK: true, Driver: "580.95.05", Engines: []string{"docker", "podman"}, Runtime: true, NoCgroups: true, CDI: true}, in)

	// Docker: what stood there is kept, the daemon takes it, and was not restarted.
	var daemon map[string]any
	require.NoError(t, json.Unmarshal([]byte(g.read(daemonFile)), &daemon))
	require.Equal(t, "journald", daemon["log-driver"])
	require.Eventually(t, func() bool { return slices.Contains(g.runtimes(), "nvidia") }, 10*time.Second, 50*time.Millisecond)
	require.Contains(t, g.runtimes(), "mine")
	g.run("dockerd", "--validate", "--config-file", daemonFile)
	require.Equal(t, pid, g.run("systemctl", "show", "-p", "MainPID", "docker"))

	// The toolkit's own configuration, as it reads it itself.
	require.Equal(t, "# mine\n"+strings.Replace(shipped, "#no-cgroups = false", "no-cgroups = true", 1), g.read(configFile))
	require.Contains(t, g.run("nvidia-ctk", "config"), "\nno-cgroups = true\n")
	require.Contains(t, g.run("nvidia-ctk", "cdi", "list"), "nvidia.com/gpu=all")
	require.Contains(t, g.read(CDIFile), "/libcuda.so.580.95.05")

	ok, why := Current(g.in, in, "580.95.05")
	require.True(t, ok, why)
	before := g.read(daemonFile) + g.read(configFile) + g.read(CDIFile)
	job.Had, g.said = in, nil
	again, err := Setup(ctx, g.in, job)
	require.NoError(t, err)
	require.Equal(t, in, again)
	require.Empty(t, g.said)
	require.Equal(t, before, g.read(daemonFile)+g.read(configFile)+g.read(CDIFile))

	// The host is upgraded.
	g.driver("590.48.01")
	ok, why = Current(g.in, in, "590.48.01")
	require.False(t, ok)
	require.Equal(t, "/etc/cdi/nvidia.yaml is of another driver", why)
	job.Driver = "590.48.01"
	in, err = Setup(ctx, g.in, job)
	require.NoError(t, err)
	require.NotContains(t, g.read(CDIFile), "580.95.05")
	require.Contains(t, g.read(CDIFile), "/libcuda.so.590.48.01")
	require.Contains(t, strings.Join(g.said, "\n"), "CDI specification made for driver 590.48.01: /etc/cdi/nvidia.yaml")
	ok, why = Current(g.in, in, "590.48.01")
	require.True(t, ok, why)

	// Taken back.
	require.NoError(t, Undo(ctx, g.in, in))
	require.Equal(t, "# mine\n"+shipped, g.read(configFile))
	require.Eventually(t, func() bool { return !slices.Contains(g.runtimes(), "nvidia") }, 10*time.Second, 50*time.Millisecond)
	require.Contains(t, g.runtimes(), "mine")
	_, err = g.in.Stat(CDIFile)
	require.Error(t, err)
	require.NoError(t, Undo(ctx, g.in, in), "a second time")
}

func TestAToolkitOfTheUsersOwnFollowsToo(t *testing.T) {
	g := start(t)
	ctx := t.Context()
	g.run("mkdir", "-p", "/run/cdi")
	g.run("nvidia-ctk", "cdi", "generate", "--output=/run/cdi/mine.json")
	require.Empty(t, Stale(g.in, "580.95.05"))
	require.True(t, NoCgroupsMissing(g.in), "doctor names it")
	g.driver("590.48.01")
	require.Equal(t, []string{"/run/cdi/mine.json"}, Stale(g.in, "590.48.01"))
	made, err := Refresh(ctx, g.in, "590.48.01")
	require.NoError(t, err)
	require.Equal(t, []string{"/run/cdi/mine.json"}, made)
	require.Empty(t, Stale(g.in, "590.48.01"))
	require.True(t, json.Valid([]byte(g.read("/run/cdi/mine.json"))), "its form is kept")
	require.NotContains(t, g.runtimes(), "nvidia", "Docker is the user's matter")

	// A driver that does not answer leaves the file as it is, and is said.
	g.driver("595.1")
	require.NoError(t, os.Remove(filepath.Join(g.Root, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")))
	was := g.read("/run/cdi/mine.json")
	_, err = Refresh(ctx, g.in, "595.1")
	require.ErrorContains(t, err, "make the CDI specification /run/cdi/mine.json: /usr/bin/nvidia-ctk cdi generate --output=/run/cdi/mine.json: exit status 1: failed to generate CDI spec")
	require.Equal(t, was, g.read("/run/cdi/mine.json"))

	// One who broke Docker's configuration is told so, and it is not touched.
	g.write("etc/docker/daemon.json", "{ // comment\n}")
	_, err = Setup(ctx, g.in, Job{Driver: "595.1", Log: g})
	require.ErrorContains(t, err, "read Docker's configuration /etc/docker/daemon.json: invalid character")
	require.Equal(t, "{ // comment\n}", g.read(daemonFile))
}
