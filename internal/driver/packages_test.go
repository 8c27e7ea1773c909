package driver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// Some packages hold files of the driver without libcuda.
func TestDriverPackagesWithoutLibcudaAreSeen(t *testing.T) {
	for _, name := range []string{"libnvidia-gl-570", "libnvidia-encode1", "nvidia-installer-cleanup", "nvidia-alternative", "libegl-nvidia0"} {
		found, _ := dpkgDriverPackages(strings.NewReader("Package: " + name + "\nStatus: install ok installed\n"))
		require.Equal(t, []string{name}, found)
	}
	found, _ := dpkgDriverPackages(strings.NewReader("Package: libnvidia-container1\nStatus: install ok installed\n"))
	require.Empty(t, found)
}

func TestFilesOfPackagesAreNoOrphans(t *testing.T) {
	root := labtest.Start(t, lab.Spec{VMID: 101, Base: &lab.Minimal})
	c, err := lxc.Open(t.Context(), root.LXCPath, 101)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	const dir = "/usr/lib/x86_64-linux-gnu/"
	deb := cudatest.Package{Name: "libnvidia-gl-550", Version: "1", Files: map[string]string{dir + "libnvidia-eglcore.so.550.54.14": "packaged\n"}}
	require.NoError(t, c.WriteFile("/root/x.deb", deb.Deb(), 0o644))
	out, err := root.Attach(t.Context(), "dpkg", "-i", "/root/x.deb")
	require.NoError(t, err, out)
	require.NoError(t, c.WriteFile(dir+"libcuda.so.550.54.14", []byte("left behind\n"), 0o644))
	log := say.Log{Entry: logrus.NewEntry(logrus.New())}
	// A package tool that does not answer: each of the files may be a package's.
	out, err = root.Attach(t.Context(), "mv", "/usr/bin/dpkg-query", "/usr/bin/dpkg-query.away")
	require.NoError(t, err, out)
	require.NoError(t, c.WriteFile("/usr/bin/dpkg-query", []byte("#!/bin/sh\nexec sleep 60\n"), 0o755))
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.Empty(t, notPackaged(soon, c, Orphans(c, "x86_64", ""), log))
	out, err = root.Attach(t.Context(), "mv", "/usr/bin/dpkg-query.away", "/usr/bin/dpkg-query")
	require.NoError(t, err, out)
	require.Equal(t, []string{dir + "libcuda.so.550.54.14"}, notPackaged(t.Context(), c, Orphans(c, "x86_64", ""), log))
	require.NoError(t, Uninstall(t.Context(), c, "x86_64", nil, "", time.Minute, log))
	require.FileExists(t, root.Root+dir+"libnvidia-eglcore.so.550.54.14")
	require.NoFileExists(t, root.Root+dir+"libcuda.so.550.54.14")
}
