package driver

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

const lib = "/usr/lib/x86_64-linux-gnu/"

// someParts are the capabilities of the default configuration.
var someParts = []runfile.Capability{runfile.Compute, runfile.Utility, runfile.Video, runfile.Graphics}

// sampleJob is a job with a sample run file that is unpacked.
func sampleJob(t *testing.T, s fakerun.Spec, capabilities ...runfile.Capability) Job {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // the container's root reads it
	require.NoError(t, os.Chmod(dir, 0o755))
	s.NoDecompressor = true
	name, err := fakerun.Write(dir, s)
	require.NoError(t, err)
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	j := Job{Tree: filepath.Join(dir, "tree"), Capabilities: capabilities, Timeout: time.Minute}
	j.Report, err = runfile.Unpack(t.Context(), f, j.Tree, runfile.Want{})
	require.NoError(t, err)
	j.Log, err = say.New(&bytes.Buffer{}, "text", "debug")
	require.NoError(t, err)
	return j
}

// guest is a container in which a test may run scripts.
type guest struct {
	*lxc.Container
	t   *testing.T
	log say.Log
	out *bytes.Buffer // what log has said
}

func newGuest(t *testing.T, spec lab.Spec) guest {
	t.Helper()
	spec.VMID = 101
	made := labtest.Start(t, spec)
	t.Cleanup(func() { require.NoError(t, made.Close()) })
	c, err := lxc.Open(t.Context(), made.LXCPath, made.VMID)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	out := &bytes.Buffer{}
	log, err := say.New(out, "text", "warning")
	require.NoError(t, err)
	return guest{c, t, log, out}
}

func (g guest) sh(script string) string {
	g.t.Helper()
	result, err := g.Run(g.t.Context(), lxc.Cmd{Timeout: time.Minute, Args: []string{"sh", "-ec", script}})
	require.NoError(g.t, err)
	require.Zero(g.t, result.Code, "%s\n%s", result.Stdout, result.Stderr)
	return strings.TrimSpace(string(result.Stdout))
}

// files lists all but what an installation leaves on purpose.
func (g guest) files() string {
	return g.sh("find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -not -path '/var/log*' -not -path '/var/cache*' | sort")
}

func (g guest) install(j Job) {
	g.t.Helper()
	j.Log = g.log
	_, err := Install(g.t.Context(), g.Container, j)
	require.NoError(g.t, err)
}

func (g guest) uninstall(in *record.Installed) {
	g.t.Helper()
	require.NoError(g.t, Uninstall(g.t.Context(), g.Container, "x86_64", in, "", time.Minute, g.log))
}

// installed is the record of what a job has installed.
func (g guest) installed(j Job) *record.Installed {
	g.t.Helper()
	files, err := Files(g.Container, j)
	require.NoError(g.t, err)
	return &record.Installed{Version: j.Version(), Arch: j.arch(), Files: files}
}

func TestLibrariesOfOthersInSubfoldersStay(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	g.sh(`mkdir -p ` + lib + `stubs /usr/lib/python3/dist-packages/x
		echo theirs >` + lib + `stubs/libcuda.so; echo theirs >/usr/lib/python3/dist-packages/x/libcuda.so.1`)
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, someParts...)
	g.install(j)
	require.Equal(t, "theirs\ntheirs", g.sh("cat "+lib+"stubs/libcuda.so /usr/lib/python3/dist-packages/x/libcuda.so.1"))
	require.NotContains(t, g.out.String(), "moved")
}

func TestWhatTheInstallerMovesIsSaidAndComesBack(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	const theirs = lib + "libnvidia-egl-gbm.so.1.1.3"
	g.sh("echo theirs >" + theirs)
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, someParts...)
	g.install(j)
	require.Contains(t, g.out.String(), "has moved 1 file that stood in its way to /var/lib/nvidia, such as "+theirs)
	g.uninstall(g.installed(j))
	require.Equal(t, "theirs", g.sh("cat "+theirs))
}

// The file that an installer was copying when it was killed is not in its notes.
func TestAFileInFlightIsNotKeptForEver(t *testing.T) {
	for name, again := range map[string]bool{"removed": false, "installed again": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, lab.Spec{})
			before := g.files()
			j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.All)
			g.sh("echo die-half >/etc/sample-nvidia-installer")
			j.Log = g.log
			_, err := Install(t.Context(), g.Container, j)
			require.Error(t, err)
			require.NotEmpty(t, Left(g.Container, "x86_64"))
			g.sh("rm /etc/sample-nvidia-installer")
			if again {
				g.install(j)
				require.NotContains(t, g.out.String(), "moved", "it is taken for somebody else's")
				g.installed(j)
			}
			g.uninstall(nil)
			require.Empty(t, Left(g.Container, "x86_64"))
			g.sh("rmdir " + record.Folder)
			require.Equal(t, before, g.files())
		})
	}
}

// What another has put in the place of the driver's file is not the driver's.
func TestAFileThatWasReplacedStays(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, someParts...)
	g.install(j)
	in := g.installed(j)
	g.sh("echo theirs >/usr/share/nvidia/nvoptix.bin")
	g.uninstall(in)
	require.Equal(t, "theirs", g.sh("cat /usr/share/nvidia/nvoptix.bin"))
}

// What was begun is a claim of the container's: it names no other files than the
// driver's, and all of those that a run file brings.
func TestOnlyDriverFilesOfWhatWasBegunAreRemoved(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	g.sh("echo theirs >/etc/theirs; echo theirs >" + lib + "libnvidia-container.so.1")
	require.NoError(t, record.WriteBegun(g, record.Begun{Version: "550.163.01", Files: []record.File{
		{Path: "/etc/theirs", Size: 7}, {Path: lib + "libnvidia-container.so.1", Size: 7},
	}}))
	require.Empty(t, Left(g.Container, "x86_64"))
	for _, v := range []string{"470.256.02", "580.119.02"} {
		m, err := sampleJob(t, fakerun.Spec{Version: v}, runfile.All).Manifest()
		require.NoError(t, err)
		for _, e := range m.Entries {
			if at, ok := m.MayBeAt(e, lib); ok && !e.Packaged() {
				require.True(t, named(at), at)
			}
		}
	}
}

func TestLinksThatLeadNowhereGo(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, someParts...)
	g.install(j)
	in := g.installed(j)
	// ldconfig takes such links in the library folder itself. The list of what was
	// begun is not there after an installation by a version before it.
	g.sh("cd " + lib + " && rm vdpau/libvdpau_nvidia.so.550.163.01 libnvidia-allocator.so.550.163.01 libEGL_nvidia.so.550.163.01 " + record.BegunPath)
	g.uninstall(in)
	require.Empty(t, g.sh("find /usr/lib -name 'lib*nvidia*'; find /usr/lib -xtype l -name 'lib*'"))
}

func TestWhatTheInstallerHasNotedIsCheckedToo(t *testing.T) {
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, runfile.All)
	g.install(j)
	in := g.installed(j)
	require.Empty(t, Differs(g.Container, in, nil))
	for _, name := range []string{
		"/etc/vulkan/icd.d/nvidia_icd.json", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "/etc/OpenCL/vendors/nvidia.icd",
		"/usr/lib64/xorg/modules/drivers/nvidia_drv.so", "/usr/share/applications/nvidia-settings.desktop",
	} {
		g.sh("mv " + name + " /root/kept")
		require.Contains(t, Differs(g.Container, in, nil), name)
		_, err := Files(g.Container, j)
		require.ErrorContains(t, err, name)
		g.sh("mv /root/kept " + name)
	}
	g.sh("rm -r /usr/share/doc/NVIDIA_GLX-1.0 /usr/share/man/man1/nvidia-smi.1.gz")
	require.Empty(t, Differs(g.Container, in, nil), "people empty these folders")
}

// One type that an installer does not know makes it refuse the whole manifest. What
// it names is said, not that it has failed.
func TestTheCauseOfAFailureIsSaid(t *testing.T) {
	for fault, want := range map[string]string{
		"rc=1":   "exit status 1: Told to fail with status 1.",
		"rc=7":   "exit status 7: Told to fail with status 7.",
		"loader": "error while loading shared libraries: libpciaccess.so.0",
	} {
		t.Run(fault, func(t *testing.T) {
			g := newGuest(t, lab.Spec{})
			g.sh("echo " + fault + " >/etc/sample-nvidia-installer")
			j := sampleJob(t, fakerun.Spec{Version: "550.163.01"}, someParts...)
			_, err := Install(t.Context(), g.Container, j)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "Installation has failed")
			require.NotContains(t, err.Error(), "noexec")
		})
	}
	g := newGuest(t, lab.Spec{})
	j := sampleJob(t, fakerun.Spec{Version: "550.163.01", Unknown: true}, someParts...)
	_, err := Install(t.Context(), g.Container, j)
	require.ErrorContains(t, err, "Invalid .manifest file; error on line")
}
