package docker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// In an unprivileged container the files of the shared driver belong to nobody. NVIDIA's
// toolkit and the engines must take them all the same.
func TestTheEnginesTakeASharedDriverThatBelongsToNobody(t *testing.T) {
	labtest.Program(t, "gcc")
	labtest.Need(t)
	layout, run := t.TempDir(), t.TempDir()
	for dir := run; dir != os.TempDir(); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755)) // root of the container looks for the mount by its path
	}
	point := filepath.Join(run, "driver")
	require.NoError(t, os.Mkdir(filepath.Join(layout, "lib"), 0o755))
	require.NoError(t, os.Mkdir(point, 0o755))
	libraries(t, filepath.Join(layout, "lib"), "580.95.05")
	require.NoError(t, lxc.MountHere(t.Context(), layout, point))
	t.Cleanup(func() { labtest.Unmount(point) })

	g := startWith(t, strings.Replace(pve.ShareEntry(point, point+"-folders", false), ":", " =", 1))
	g.tool("nvidia-cdi-hook")
	libcuda := record.Shared + "/lib/libcuda.so.580.95.05"
	require.Equal(t, "65534\n", g.run("stat", "-c", "%u", libcuda))
	g.write("etc/ld.so.conf.d/00-shared.conf", record.Shared+"/lib\n")
	g.run("ldconfig")
	_, err := Setup(t.Context(), g.in, Job{Driver: "580.95.05", GPU: true, Log: g})
	require.NoError(t, err)
	require.Contains(t, g.read(CDIFile), "hostPath: "+libcuda)
	require.Contains(t, g.run("nvidia-ctk", "cdi", "list"), "nvidia.com/gpu=all")

	// podman mounts it in a container of its own, with the container's own programs as image.
	g.write("etc/containers/storage.conf", "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n")
	const image = `cd /root && mkdir -p image/usr image/etc image/tmp && cp -a /bin /sbin /lib /lib64 image/ &&
		cp -a --parents /usr/bin /usr/sbin /usr/lib64 /usr/lib/x86_64-linux-gnu image/`
	g.run("sh", "-c", image)
	said := g.run("podman", "run", "--rm", "--network=none", "--device=nvidia.com/gpu=all", "--rootfs", "/root/image",
		"sh", "-c", "ldconfig -p | grep libcuda.so.1; LD_PRELOAD=libcuda.so.1 cat /proc/self/maps")
	require.Contains(t, said, "libcuda.so.1 (libc6,x86-64) => "+record.Shared+"/lib/libcuda.so.1")
	require.Contains(t, said, libcuda)
}
