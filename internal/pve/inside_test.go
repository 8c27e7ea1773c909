package pve

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// inside is a container of which only these nodes and groups are known.
type inside struct {
	nodes map[string]lxc.Info
	group string
}

func (c inside) LstatAll(names []string) []lxc.Entry {
	all := make([]lxc.Entry, len(names))
	for i, name := range names {
		if all[i].Info = c.nodes[name]; all[i].Mode == 0 {
			all[i].Err = fs.ErrNotExist
		}
	}
	return all
}

func (c inside) ReadFile(string, int64) ([]byte, error) {
	if c.group == "" {
		return nil, fs.ErrNotExist
	}
	return []byte(c.group), nil
}

func TestNodesOfNoUseInAContainerAreNamed(t *testing.T) {
	const dev = fs.ModeDevice | fs.ModeCharDevice
	node := func(major, minor uint32, mode fs.FileMode) lxc.Info {
		return lxc.Info{Mode: mode, Rdev: unix.Mkdev(major, minor)}
	}
	real := []host.Node{{Path: "/dev/nvidia0", Major: 195, IsChar: true}, {Path: "/dev/nvidia-uvm", Major: 511, IsChar: true}, {Path: "/dev/nvidia1", Major: 195, Minor: 1}}
	for _, c := range []struct {
		name, entry, group, says string
		uvm                      lxc.Info
	}{
		{"right", "/dev/nvidia-uvm,mode=0666", "", "", node(511, 0, dev|0o666)},
		{"missing", "/dev/nvidia-uvm,mode=0666", "", "/dev/nvidia-uvm is missing in the container", lxc.Info{}},
		{"regular file", "/dev/nvidia-uvm", "", "/dev/nvidia-uvm in the container is not a device", lxc.Info{Mode: 0o644}},
		{"stale major", "/dev/nvidia-uvm,mode=0666", "", "/dev/nvidia-uvm in the container is device 509:0, on the host it is 511:0", node(509, 0, dev|0o666)},
		{"root alone", "/dev/nvidia-uvm", "video:x:44:", "has mode 0660 and belongs to the group of root: only root can use it", node(511, 0, dev|0o660)},
		{"its group", "path=/dev/nvidia-uvm,gid=44", "root:x:0:\nvideo:x:44:\n", "", node(511, 0, dev|0o660)},
		{"no such group", "/dev/nvidia-uvm,gid=104,mode=0660", "video:x:44:\n", "belongs to group 104, which the container does not have", node(511, 0, dev|0o660)},
		{"groups unknown", "/dev/nvidia-uvm,gid=104", "", "", node(511, 0, dev|0o660)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Section{Dev: map[int]string{0: "/dev/nvidia0,mode=0666", 1: c.entry, 2: "/dev/nvidia1", 3: "/dev/fuse"}}
			said := CheckNodes(inside{map[string]lxc.Info{"/dev/nvidia0": node(195, 0, dev|0o666), "/dev/nvidia-uvm": c.uvm}, c.group}, s, real)
			if c.says == "" {
				require.Empty(t, said)
				return
			}
			require.Len(t, said, 1)
			require.Contains(t, said[0], c.says)
		})
	}
	mounted := Section{LXC: []KV{{"lxc.mount.entry", "/dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file"}}}
	require.Equal(t, []string{"/dev/nvidia-uvm in the container is not a device: it was not there on the host when the container started"},
		CheckNodes(inside{map[string]lxc.Info{"/dev/nvidia-uvm": {Mode: 0o644}}, ""}, mounted, real))
}

func TestNodesOfARealContainerAreSeen(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
	for _, args := range [][]string{{"mknod", "-m", "666", "/dev/nvidia0", "c", "195", "0"}, {"mknod", "-m", "666", "/dev/nvidia-uvm", "c", "509", "0"}, {"touch", "/dev/nvidiactl"}} {
		out, err := at.Attach(t.Context(), args...)
		require.NoError(t, err, out)
	}
	c, err := lxc.Open(t.Context(), at.LXCPath, at.VMID)
	require.NoError(t, err)
	defer c.Close()
	s := Section{Dev: map[int]string{0: "/dev/nvidia0,mode=0666", 1: "/dev/nvidiactl,mode=0666", 2: "/dev/nvidia-uvm,mode=0666", 3: "/dev/nvidia-uvm-tools,mode=0666"}}
	real := []host.Node{{Path: "/dev/nvidia0", Major: 195, IsChar: true}, {Path: "/dev/nvidiactl", Major: 195, Minor: 255, IsChar: true},
		{Path: "/dev/nvidia-uvm", Major: 511, IsChar: true}, {Path: "/dev/nvidia-uvm-tools", Major: 511, Minor: 1, IsChar: true}}
	require.Equal(t, []string{
		"/dev/nvidiactl in the container is not a device: it was not there on the host when the container started",
		"/dev/nvidia-uvm in the container is device 509:0, on the host it is 511:0",
		"/dev/nvidia-uvm-tools is missing in the container",
	}, CheckNodes(c, s, real))
	took := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			CheckNodes(c, s, real)
		}
	}).NsPerOp()
	t.Logf("one look takes %d us", took/1000)
	require.Less(t, took, int64(5_000_000), "a start that finds nothing to do must not notice it")
}
