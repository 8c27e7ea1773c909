package pve

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
)

const a10, l40, l4, l4b = "GPU-aaaa1111-0000-0000-0000-000000000001", "GPU-bbbb0000-0000-0000-0000-000000000002", "GPU-cccc0000-0000-0000-0000-000000000003", "GPU-cccd0000-0000-0000-0000-000000000004"

// four cards, whose nodes are numbered against the order of their addresses.
func four() []host.GPU {
	return []host.GPU{
		{Index: 0, Model: "NVIDIA A10", UUID: a10, Address: "0000:01:00.0", Minor: 3, Instances: []host.Instance{{GPU: 1, Caps: []uint32{1, 2}}, {GPU: 2, Caps: []uint32{10, 2}}}},
		{Index: 1, Model: "NVIDIA A100 80GB PCIe", UUID: l40, Address: "0000:21:00.0", Minor: 2},
		{Index: 2, Model: "NVIDIA L4", UUID: l4, Address: "0000:41:00.0", Minor: 1},
		{Index: 3, Model: "NVIDIA L4", UUID: l4b, Address: "0001:41:00.0", Minor: 0},
	}
}

var fourNodes = append([]Device{{Path: "/dev/nvidia2", Mode: 0o666}, {Path: "/dev/nvidia3", Mode: 0o666}}, nodes...)

func TestGPUsAreChosenAsNvidiaSMINamesThem(t *testing.T) {
	for _, c := range []struct{ gpus, asked, err string }{
		{"0", a10, ""}, {"3,0", l4b + "," + a10, ""}, {a10, a10, ""}, {"GPU-aa", a10, ""}, {"gpu-AAAA1111", a10, ""},
		{"01:00.0", a10, ""}, {"0000:21:00.0", l40, ""}, {"00000000:21:00.0", l40, ""}, {"0001:41:00.0", l4b, ""},
		{"A10", a10, ""}, {"nvidia a10", a10, ""}, {"80gb", l40, ""}, {"0,A10,GPU-aaaa", a10, ""},
		{"", "all", ""}, {"all", "all", ""}, {"none", "none", ""}, {"0:1", a10 + ":1", ""}, {"GPU-aaaa:1", a10 + ":1", ""},
		{"4", "", "there is no GPU 4: this host has NVIDIA A10 (GPU 0, 0000:01:00.0, "},
		{"GPU-ccc", "", "GPU GPU-ccc is not unique: it may be NVIDIA L4 (GPU 2"}, {"L4", "", "GPU L4 is not unique"}, {"L40S", "", "there is no GPU L40S"},
		{"02:00.0", "", "there is no GPU 02:00.0"}, {"0:2", "", "has 2 MIG instances, so that there is no instance 2"}, {"1:0", "", "has 0 MIG instances"},
		{"MIG-5c4f", "", "there is no GPU MIG-5c4f"}, {";", "", "is not a choice of GPUs"},
	} {
		got, _, err := pick(four(), c.gpus)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, c.gpus)
			require.NotEmpty(t, hint.Of(err))
			continue
		}
		require.NoError(t, err, c.gpus)
		require.Equal(t, c.asked, got.Asked, c.gpus)
		again, _, err := pick(four(), got.Asked)
		require.NoError(t, err, "what is remembered can be chosen again")
		require.Equal(t, got.Cards, again.Cards)
	}
}

func TestContainerGetsTheNodesOfItsCardsAndNoCapabilityOfOthers(t *testing.T) {
	paths := func(gpus string) []string {
		c, err := SelectDevices(fourNodes, four(), gpus)
		require.NoError(t, err)
		require.Empty(t, c.Missing)
		var all []string
		for _, d := range c.Devices {
			all = append(all, d.Path)
		}
		return all
	}
	common := []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"}
	require.Equal(t, append([]string{"/dev/nvidiactl", "/dev/nvidia3"}, common...), paths("0"))
	require.Equal(t, append(append([]string{"/dev/nvidiactl", "/dev/nvidia3"}, common...), "/dev/nvidia-caps/nvidia-cap10", "/dev/nvidia-caps/nvidia-cap2"), paths("0:1"))
	require.Len(t, paths("all"), 8)
}

func TestCardThatTakesTheNumberOfAnotherIsNoticedAndPutRight(t *testing.T) {
	n := newNode(t)
	n.o.Cards = []host.GPU{{Index: 0, Model: "NVIDIA A10", UUID: a10, Address: "0000:03:00.0", Minor: 0}}
	n.o.GPUs = "0"
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "GPU: NVIDIA A10 (GPU 0, 0000:03:00.0, "+a10+", /dev/nvidia0)\n")
	state, err := ReadState(n.o.State, 102)
	require.NoError(t, err)
	require.Empty(t, state.Changes(parse(t, n.conf(102)), n.o.Cards))

	// A card is added before it, and takes its number.
	n.o.Cards = []host.GPU{{Index: 0, Model: "NVIDIA L4", UUID: l4, Address: "0000:02:00.0", Minor: 0}, {Index: 1, Model: "NVIDIA A10", UUID: a10, Address: "0000:03:00.0", Minor: 1}}
	require.Equal(t, []string{"/dev/nvidia0 is now NVIDIA L4 (GPU 0, 0000:02:00.0, " + l4 + ", /dev/nvidia0); the card that was chosen is now NVIDIA A10 (GPU 1, 0000:03:00.0, " + a10 + ", /dev/nvidia1)"},
		state.Changes(parse(t, n.conf(102)), n.o.Cards))
	n.o.GPUs = state.Chosen(parse(t, n.conf(102)), n.o.Cards)
	require.Equal(t, a10, n.o.GPUs)
	for _, says := range []string{"set dev", "nothing to change"} {
		out, err = n.enable(102)
		require.NoError(t, err)
		require.Contains(t, out, says)
	}
	require.NotContains(t, n.conf(102), "/dev/nvidia0,")
	require.Contains(t, n.conf(102), "/dev/nvidia1,mode=0666")
	state, err = ReadState(n.o.State, 102)
	require.NoError(t, err)
	require.Empty(t, state.Changes(parse(t, n.conf(102)), n.o.Cards))

	// It is taken out.
	require.Equal(t, []string{"the card that was chosen as /dev/nvidia1, " + a10 + ", is not in this host"}, state.Changes(parse(t, n.conf(102)), n.o.Cards[:1]))
	_, err = n.enable(102)
	require.NoError(t, err)
	n.o.Cards = n.o.Cards[:1]
	_, err = n.enable(102)
	require.ErrorContains(t, err, "there is no GPU "+a10)
}

func TestCardAddedToAllIsNoticed(t *testing.T) {
	cards := four()
	c, err := SelectDevices(fourNodes, cards[:3], "all")
	require.NoError(t, err)
	conf := parse(t, "hookscript: "+DefaultVolume+"\n")
	s := State{Hookscript: DefaultVolume}
	s.remember(c)
	require.Empty(t, s.Changes(conf, cards[:3]))
	require.Equal(t, []string{cards[3].String() + " has been added to this host, and all were chosen"}, s.Changes(conf, cards))
	cards[0].UUID = ""
	require.Empty(t, s.Changes(conf, cards), "what the driver does not know yet is no change")
	require.Empty(t, s.Changes(parse(t, "hookscript: local:snippets/pve-nvidia-hook+x\n"), four()), "another container has the number now")
}

func TestCloneKeepsTheCardsThatItsEntriesName(t *testing.T) {
	conf := parse(t, "hookscript: "+DefaultVolume+"\ndev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia2,mode=0666\n")
	require.Equal(t, l40, State{}.Chosen(conf, four()))
	require.Equal(t, "none", State{}.Chosen(parse(t, "hookscript: "+DefaultVolume+"\n"), four()))
	require.Empty(t, State{}.Chosen(parse(t, "hostname: fresh\n"), four()))
}

func TestContainerWithTheHostsOwnDriverIsRefused(t *testing.T) {
	for _, line := range []string{
		"lxc.hook.mount: /usr/share/lxc/hooks/nvidia",
		"lxc.mount.entry: /usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05 usr/lib/libcuda.so.1 none bind,ro 0 0",
		"lxc.mount.entry = /usr/bin/nvidia-smi usr/bin/nvidia-smi none bind,ro,create=file 0 0",
	} {
		n := newNode(t)
		n.file("etc/pve/nodes/pve1/lxc/102.conf", "hostname: db\n"+line+"\n")
		before := n.conf(102)
		_, err := n.enable(102)
		require.ErrorContains(t, err, "container 102 gets the host's driver by the line")
		require.Contains(t, hint.Of(err), "take that line out of /etc/pve/lxc/102.conf")
		require.Error(t, Check(n.o, []int{102}))
		require.Equal(t, before, n.conf(102))
		require.NoFileExists(t, filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook"))
	}
}

func TestRenderNodesOfTheChosenCardsAreForTheContainersGroup(t *testing.T) {
	n := newNode(t)
	n.o.Cards = []host.GPU{{Index: 0, UUID: a10, Address: "0000:01:00.0", Minor: 0}, {Index: 1, UUID: l4, Address: "0000:02:00.0", Minor: 1}}
	for name, address := range map[string]string{"card0": "0000:00:02.0", "renderD128": "0000:00:02.0", "card1": "0000:01:00.0", "renderD129": "0000:01:00.0", "card1-DP-1": "0000:01:00.0", "renderD130": "0000:02:00.0"} {
		dir := filepath.Join(n.o.Root, "sys/class/drm", name)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.Symlink("../../../"+address, filepath.Join(dir, "device")))
	}
	for _, name := range []string{"dri/card1", "dri/renderD129"} {
		require.NoError(t, unix.Mknod(filepath.Join(n.o.Root, "dev", name), syscall.S_IFCHR|0o660, int(unix.Mkdev(226, 1))))
	}
	before := n.conf(102)
	yes, no := true, false
	n.o.GPUs, n.o.DRI = "0", &yes
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, n.conf(102), ": /dev/dri/card1,mode=0666,uid=0\n")
	require.Contains(t, out, "all its users may open")

	n.o.DRI = nil // as before, and it runs now
	n.o.Groups = func(int) map[string]string { return map[string]string{"44": "video", "993": "render"} }
	out, err = n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, out, "all its users may open")
	require.Contains(t, n.conf(102), ": /dev/dri/card1,gid=44,mode=0660,uid=0\n")
	require.Contains(t, n.conf(102), ": /dev/dri/renderD129,gid=993,mode=0660,uid=0\n")
	require.NotContains(t, n.conf(102), "renderD128", "the card of the mainboard")
	require.NotContains(t, n.conf(102), "renderD130", "a card that was not chosen")

	n.o.DRI = &no
	_, err = n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, n.conf(102), "/dev/dri")
	require.NoError(t, os.RemoveAll(filepath.Join(n.o.Root, "sys/class/drm/renderD130")))
	n.o.DRI, n.o.GPUs = &yes, "1"
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "warning: --dri changes nothing: this host has no nodes in /dev/dri of these GPUs\n")
	n.o.GPUs = "0"
	out, err = n.enable(102)
	require.NoError(t, err)
	require.NotContains(t, out, "warning: --dri")
	_, err = n.disable(102)
	require.NoError(t, err)
	require.Equal(t, before, n.conf(102))
}

func TestNodesOfAChoice(t *testing.T) {
	for _, c := range []struct {
		cards []host.GPU
		gpus  string
		nodes []string
	}{{four(), "0,1", []string{"/dev/nvidia3", "/dev/nvidia2"}}, {four(), "GPU-bbbb", []string{"/dev/nvidia2"}}, {nil, "0, 2", []string{"/dev/nvidia0", "/dev/nvidia2"}}} {
		nodes, err := NodesOf(c.cards, c.gpus)
		require.NoError(t, err)
		require.Equal(t, c.nodes, nodes)
	}
	_, err := NodesOf(four(), "GPU-5555")
	require.Error(t, err)
}

func TestTheWishForDockerIsOfTheContainerNotOfItsNumber(t *testing.T) {
	n := newNode(t)
	yes, no := true, false
	wanted := func() bool { return Docker(n.o.Root, n.o.State, 102) }
	_, err := n.enable(102)
	require.NoError(t, err)
	require.False(t, wanted())

	n.o.Docker, n.o.DryRun = &yes, true
	out, err := n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "would set docker.toolkit: true")
	require.False(t, wanted())

	n.o.DryRun = false
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "container 102 (db): set docker.toolkit: true")
	require.NotContains(t, out, "nothing to change")
	require.Contains(t, out, "next: pct start 102")
	require.True(t, wanted())
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "nothing to change")

	n.o.Docker, n.o.GPUs = nil, "0" // as before, also with other cards
	_, err = n.enable(102)
	require.NoError(t, err)
	require.True(t, wanted())

	kept := n.conf(102) // the number is another container's for a while
	for _, other := range []string{"arch: amd64\n", "arch: amd64\nhookscript: local:snippets/mine.sh\n", "arch: amd64\nhookscript: local:snippets/pve-nvidia-hook\n"} {
		n.file("etc/pve/nodes/pve1/lxc/102.conf", other)
		require.False(t, wanted(), other)
	}
	_, err = n.enable(102)
	require.NoError(t, err)
	require.False(t, wanted(), "enable has looked at the other one")
	n.file("etc/pve/nodes/pve1/lxc/102.conf", kept)

	n.o.Docker = &yes
	_, err = n.enable(102)
	require.NoError(t, err)
	n.o.Docker = &no
	out, err = n.enable(102)
	require.NoError(t, err)
	require.Contains(t, out, "removed docker.toolkit")
	require.False(t, wanted())

	n.o.Docker = &yes
	_, err = n.enable(102)
	require.NoError(t, err)
	_, err = n.disable(102)
	require.NoError(t, err)
	require.False(t, wanted())
}
