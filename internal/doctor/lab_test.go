package doctor

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// What a run of the hook has left is what the doctor calls well, to the last check.
func TestContainerWithADriverFromTheHookIsWell(t *testing.T) {
	l := labtest.Open(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	program, err := rig.Build(ctx, t.TempDir())
	require.NoError(t, err)
	samples := t.TempDir()
	_, err = fakerun.Write(samples, fakerun.Spec{Version: module, Arch: arch(t)})
	require.NoError(t, err)
	r, err := rig.New(t.TempDir(), program, l.Path, samples)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.Module(module))
	labtest.StartIn(t, l, lab.Spec{VMID: 101})
	said, err := r.Hook(ctx, 101, "post-start")
	require.NoError(t, err)
	require.Zero(t, said.Code, said.Text)

	c, err := config.Load(r.Path("config.toml"), config.Options{HostRoot: r.Path("host")})
	require.NoError(t, err)
	report := Examine(ctx, Options{Config: c, Host: host.Host{Root: r.Path("host")}, VMIDs: []int{101}})
	levels := map[string]Level{}
	for _, f := range report.Findings {
		if f.VMID == 101 && f.Check != "nodes-inside" { // it has no GPU indeed
			require.NotEqual(t, Problem, f.Level, f)
		}
		levels[f.Check] = f.Level
	}
	for _, check := range []string{"cache", "cache-files", "state", "versions", "record", "orphans", "obstacles", "disk", "lock", "last-run"} {
		require.Equal(t, OK, levels[check], "%s\n%s", check, lines(report.Findings))
	}
}

// faulty makes in a container what users of other ways have: half of two
// drivers, and a record that is older than both links.
const faulty = `
set -e
lib=/usr/lib/%s-linux-gnu
# As cuda-compat does it: a library with that name, in a folder that comes first.
mkdir /opt/compat
LC_ALL=C sed 's/libresolv\.so\.2/libcuda.so.1\x00\x00/g' $lib/libresolv.so.2 >/opt/compat/libcuda.so.550.54.15
echo /opt/compat >/etc/ld.so.conf.d/000_compat.conf
ldconfig
for name in libcuda libnvidia-ml; do
	echo x >$lib/$name.so.580.142
	ln -s $name.so.580.142 $lib/$name.so.1
done
echo x >$lib/libcuda.so.535.54.03
mkdir -p /var/lib/pve-nvidia-hook
echo '{"format":1,"version":"550.163.01","files":[]}' >/var/lib/pve-nvidia-hook/installed.json
printf 'Package: libcuda1\nStatus: install ok installed\n\n' >>/var/lib/dpkg/status
rm -f /sbin/ldconfig /usr/sbin/ldconfig
touch '/dev/nvidia0;reboot' '/dev/nvidia$(reboot)'
`

func TestFaultsOfARunningContainerAreFound(t *testing.T) {
	n := newNode(t)
	l := labtest.Open(t)
	// The node is not there, so that LXC makes an empty file of its name.
	c := labtest.StartIn(t, l, lab.Spec{VMID: 101, ExtraConfig: []string{
		"lxc.mount.entry = /dev/no-such-nvidia0 dev/nvidia0 none bind,optional,create=file",
	}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := c.Attach(ctx, "sh", "-c", fmt.Sprintf(faulty, arch(t)))
	require.NoError(t, err, out)
	n.file("config.toml", fmt.Sprintf("[containers.101]\ntoolkit = \"12.8\"\n[cache]\ndir = %q\n[paths]\nstate = %q\nrun = %q\nlxc = %q\n",
		n.path("cache"), n.path("state"), n.path("run"), l.Path))

	said := lines(n.examine().Findings)
	for _, want := range []string{
		"101 problem nodes-inside: /dev/nvidia0 in the container is an ordinary file, not a device",
		"101 problem nodes-inside: /dev/nvidiactl is not in the container, though dev0 passes it",
		"101 problem record: its record is stale: it names driver 550.163.01, but 580.142 is there | see obstacles",
		"101 problem orphans: libraries of another driver version are left: /usr/lib/" + arch(t) + "-linux-gnu/libcuda.so.535.54.03;",
		"101 problem obstacles: NVIDIA's installer needs ldconfig in the container",
		"101 problem obstacles: distribution packages of the driver are installed: libcuda1",
		"101 problem loader: programs get /opt/compat/libcuda.so.1 (of driver 550.54.15) instead of the libcuda of driver 580.142: CUDA programs may fail | remove /opt/compat from the file that this names: pct exec 101 -- grep -rF /opt/compat /etc/ld.so.conf /etc/ld.so.conf.d; then: pct exec 101 -- ldconfig",
		"101 problem toolkit: the CUDA toolkit is not as wanted: no toolkit is installed | see obstacles",
	} {
		require.Contains(t, said, want)
	}
	require.NotContains(t, said, "reboot)", "no command has what the container chose")
	require.NotContains(t, said, ";reboot")
	require.NotContains(t, said, " versions: ", "580.142 is what the host has")

	// What is in use is no orphan, also where another version is wanted.
	n.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.48.01  Release Build\n")
	n.remove("usr/lib")
	said = lines(n.examine().Findings)
	require.Contains(t, said, "101 problem versions: driver 580.142 is installed, 590.48.01 is needed | see obstacles")
	require.Contains(t, said, "libcuda.so.535.54.03; the next")

	require.NoError(t, c.Stop())
	r := n.examine()
	require.Empty(t, lines(r.Findings))
	for _, f := range r.Findings {
		require.NotEqual(t, "record", f.Check, "nothing is claimed of a container that does not run")
		if f.Check == "inside" {
			require.Equal(t, Unknown, f.Level)
		}
	}
}

// old lays a driver, a program that maps the one before it, and a Container Toolkit
// whose files are of that one too.
const old = `
set -e
lib=/usr/lib/%[1]s-linux-gnu
for v in 550.163.01 580.142; do
	rm -f $lib/libcuda.so.1 $lib/libnvidia-ml.so.1
	for name in libcuda libnvidia-ml; do
		head -c 8192 /dev/zero >$lib/$name.so.$v
		ln -s $name.so.$v $lib/$name.so.1
	done
	[ $v = 580.142 ] || setsid perl -e 'open(F, "<", $ARGV[0]); syscall(9, 0, 4096, 1, 2, fileno(F), 0); sleep 1000' $lib/libcuda.so.1 </dev/null >/dev/null 2>&1 &
	sleep 0.3
done
rm $lib/*.so.550.163.01
touch /usr/bin/nvidia-ctk
mkdir /etc/cdi
printf 'kind: nvidia.com/gpu\nhostPath: %%s\n' $lib/libcuda.so.550.163.01 >/etc/cdi/nvidia.yaml
`

func TestWhatUsesAnotherDriverIsFound(t *testing.T) {
	n := newNode(t)
	l := labtest.Open(t)
	c := labtest.StartIn(t, l, lab.Spec{VMID: 101})
	out, err := c.Attach(t.Context(), "sh", "-c", fmt.Sprintf(old, arch(t)))
	require.NoError(t, err, out)
	n.file("config.toml", fmt.Sprintf("[cache]\ndir = %q\n[paths]\nstate = %q\nrun = %q\nlxc = %q\n",
		n.path("cache"), n.path("state"), n.path("run"), l.Path))
	said := lines(n.examine().Findings)
	require.Regexp(t, `101 problem in-use: perl \(process \d+\) still uses driver 550.163.01 \| restart it in the container, or the container: pct reboot 101`, said)
	require.Contains(t, said, "101 problem docker: the CDI specification /etc/cdi/nvidia.yaml is of another driver: containers that Docker or podman start by it have no GPU | pct exec 101 -- nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
	require.Contains(t, said, "101 problem docker: no-cgroups = true is missing")
}
