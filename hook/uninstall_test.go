package hook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

func TestUninstallLeavesNothing(t *testing.T) {
	for name, spec := range map[string]lab.Spec{"unprivileged": {}, "privileged": {Privileged: true}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, newer)
			g := n.start(spec)
			before := g.sh("find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -not -path '/var/log*' -not -path '/var/cache*' | sort")
			g.postStart(0)
			id := fmt.Sprint(g.VMID)

			require.FileExists(t, g.Root+"/etc/apt/preferences.d/pve-nvidia-hook", "packages of the driver can come over it")
			said := n.run(0, "uninstall", id, "--dry-run")
			require.Contains(t, said, "remove the driver that is in the container")
			g.holds(newer)

			said = n.run(0, "uninstall", id)
			require.Contains(t, said, "driver is removed from the container")
			require.Contains(t, said, "the next start of "+id+" installs it again")
			g.unrecorded()
			after := g.sh("find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -not -path '/var/log*' -not -path '/var/cache*' | sort")
			require.Equal(t, before, after)

			require.Contains(t, n.run(0, "uninstall", id), "no driver is in the container")
			g.postStart(0)
			g.holds(newer)
		})
	}
}

func TestUninstallTakesAHalfInstalledDriver(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo die-half >/etc/sample-nvidia-installer")
	g.postStart(1)
	n.run(0, "uninstall", fmt.Sprint(g.VMID))
	require.Empty(t, g.sh("ls /usr/lib/x86_64-linux-gnu | grep -E '^lib(cuda|nvidia)' || true"))
	g.unrecorded()
}

// The uninstaller removes the folders last; then one that is killed before leaves
// them to whoever comes next.
func TestUninstallThatWasKilledLeavesNoFolders(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("rmdir /etc/OpenCL/vendors /etc/OpenCL /usr/share/nvidia 2>/dev/null; true")
	before := g.sh("find /etc /usr -type d | sort")
	g.postStart(0)
	require.NotEqual(t, before, g.sh("find /etc /usr -type d | sort"))
	// As it is when the uninstaller has removed all files, itself too, and no folder.
	g.sh(`cd / && while read -r kind name; do case $kind in 0:|1:) rm -f "$name";; esac; done </var/lib/nvidia/log; rm -f /usr/bin/nvidia-uninstall /usr/bin/nvidia-installer`)
	n.run(0, "uninstall", fmt.Sprint(g.VMID))
	require.Equal(t, before, g.sh("find /etc /usr -type d | sort"))
}

func TestUninstallLeavesPackagesAlone(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh(`cd /usr/lib/x86_64-linux-gnu && echo x >libcuda.so.535.1 && ln -s libcuda.so.535.1 libcuda.so.1
printf '\nPackage: libcuda1\nStatus: install ok installed\nVersion: 535.1\n' >>/var/lib/dpkg/status`)
	said := n.run(1, "uninstall", fmt.Sprint(g.VMID))
	require.Contains(t, said, "was not installed by a run file")
	require.FileExists(t, g.file("usr/lib/x86_64-linux-gnu/libcuda.so.535.1"))
}

func TestUninstallOfAStoppedContainerIsRefused(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	require.NoError(t, g.Stop())
	said := n.run(1, "uninstall", fmt.Sprint(g.VMID))
	require.Contains(t, said, "not running")
	require.Contains(t, said, "hint: start it first")
}

func TestTracesHoldNoSecret(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	// Nobody listens on port 1: the error names the URL.
	text, err := os.ReadFile(n.Path("config.toml"))
	require.NoError(t, err)
	config := string(text)
	config = `[driver]
urls = ["https://someone:pass-word-1@127.0.0.1:1/{version}/{file}?signature=abcdefgh"]
` + config[strings.Index(config, "[cache]"):]
	require.NoError(t, os.WriteFile(n.Path("config.toml"), []byte(config), 0o644))
	said := g.postStart(1)
	require.Contains(t, said, "127.0.0.1:1")
	require.NoError(t, n.FailedAtLength(101))
	said += g.postStart(1) // held back, with the reason of the first
	files, err := filepath.Glob(n.Path("state/runs/101/*.json"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	files = append(files, n.Path("state/failures/101.json"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		said += string(text)
	}
	said += n.run(0, "status", "--json") + n.run(0, "config", "show", "101")
	for _, secret := range []string{"pass-word-1", "someone", "abcdefgh"} {
		require.NotContains(t, said, secret)
	}
}

// What other packages hold under names like the driver's outlives an upgrade and
// a removal: the Container Toolkit's libraries, and those that the driver has
// replaced by its own and its uninstaller puts back.
func TestLibrariesOfOtherPackagesStay(t *testing.T) {
	n := newNode(t, older)
	g := n.start(lab.Spec{})
	const lib = "usr/lib/x86_64-linux-gnu/"
	theirs := "cd /" + lib + " && for f in libnvidia-container.so.1.18.2 libnvidia-container-go.so.1.18.2 libnvidia-egl-wayland.so.1.1.13 libnvidia-nscq.so.550.163.01; do echo theirs >$f; done" +
		" && ln -s libnvidia-container.so.1.18.2 libnvidia-container.so.1 && ln -s libnvidia-egl-wayland.so.1.1.13 libnvidia-egl-wayland.so.1" +
		" && echo theirs >libnvidia-egl-gbm.so.1.1.3 && ln -s libnvidia-egl-gbm.so.1.1.3 libnvidia-egl-gbm.so.1"
	g.sh(theirs)
	list := "cd /usr/lib && find . -name 'lib*nvidia*' -o -name 'libGL.so*' | sort | xargs ls -l --time-style=+ | awk '{print $5, $6, $7, $8}'"
	before := g.sh(list)
	g.postStart(0)
	require.FileExists(t, g.file(lib+"libnvidia-egl-wayland.so.1.1.20"))
	require.NoError(t, n.Module(newer))
	g.postStart(0)
	g.holds(newer)
	require.FileExists(t, g.file(lib+"libnvidia-container.so.1.18.2"))
	require.FileExists(t, g.file(lib+"libnvidia-nscq.so.550.163.01"))
	n.run(0, "uninstall", fmt.Sprint(g.VMID))
	require.Equal(t, before, g.sh(list))
}
