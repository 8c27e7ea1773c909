package pve

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// nodes are of a host with two GPUs and all that the driver makes besides.
var nodes = []Device{
	{Path: "/dev/nvidia1", Mode: 0o666}, {Path: "/dev/nvidia0", Mode: 0o666}, {Path: "/dev/nvidiactl", Mode: 0o666},
	{Path: "/dev/nvidia-uvm", Mode: 0o666}, {Path: "/dev/nvidia-uvm-tools", Mode: 0o666}, {Path: "/dev/nvidia-modeset", Mode: 0o666},
	{Path: "/dev/nvidia-caps/nvidia-cap1", Mode: 0o400}, {Path: "/dev/nvidia-caps/nvidia-cap2", Mode: 0o444}, {Path: "/dev/nvidia-caps/nvidia-cap10", Mode: 0o444},
}

func selected(t *testing.T, gpus string) Choice {
	t.Helper()
	c, err := SelectDevices(nodes, nil, gpus)
	require.NoError(t, err)
	require.Empty(t, c.Missing)
	return c
}

// text shows a plan as the golden files keep it.
func (p Plan) text() string {
	var b strings.Builder
	for _, line := range p.Lines {
		fmt.Fprintln(&b, line)
	}
	for _, line := range p.Warnings {
		fmt.Fprintln(&b, "warning:", line)
	}
	if p.Empty() {
		fmt.Fprintln(&b, "nothing to change")
	}
	for _, args := range p.Calls() {
		fmt.Fprintln(&b, "pct", strings.Join(args, " "))
	}
	fmt.Fprintf(&b, "remember hookscript=%s", p.State.Hookscript)
	for _, n := range sortedKeys(p.State.Dev) {
		fmt.Fprintf(&b, " dev%d=%s", n, p.State.Dev[n])
	}
	return b.String() + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestEnablePlans(t *testing.T) {
	ours := State{Hookscript: DefaultVolume, Dev: map[int]string{
		0: "/dev/nvidiactl,mode=0666", 1: "/dev/nvidia0,mode=0666", 2: "/dev/nvidia1,mode=0666", 3: "/dev/nvidia-uvm,mode=0666",
	}}
	const enabled = "hookscript: local:snippets/pve-nvidia-hook\ndev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia0,mode=0666\n" +
		"dev2: /dev/nvidia1,mode=0666\ndev3: /dev/nvidia-uvm,mode=0666\n"
	for _, c := range []struct {
		name, conf, gpus string
		state            State
		volume           string
		chain            bool
	}{
		{name: "fresh", gpus: "all"},
		{name: "one-gpu", gpus: "1"},
		{name: "none", gpus: "none"},
		{name: "users-entries-stay", gpus: "0", conf: "dev0: /dev/dri/renderD128,gid=104\ndev2: /dev/nvidia0\ndev4: path=/dev/nvidiactl,mode=0660,gid=44\n"},
		{name: "mount-lines-stay", gpus: "0", conf: "lxc.cgroup2.devices.allow: c 195:* rwm\n" +
			"lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file\nlxc.mount.entry = /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir\n"},
		{name: "gpus-shrink", gpus: "0", conf: enabled, state: ours},
		{name: "devices-given-up", gpus: "none", conf: enabled, state: ours},
		{name: "changed-by-hand", gpus: "none", conf: strings.Replace(enabled, "nvidia1,mode=0666", "nvidia1,mode=0660", 1), state: ours},
		{name: "removed-by-hand", gpus: "all", conf: strings.Replace(enabled, "dev2: /dev/nvidia1,mode=0666\n", "", 1), state: ours},
		{name: "chained", gpus: "none", conf: "hookscript: nas:snippets/backup.sh\n", chain: true},
		{name: "chain-is-kept", gpus: "none", conf: "hookscript: nas:snippets/pve-nvidia-hook+backup.sh\n"},
		{name: "other-storage", gpus: "none", volume: "nas:snippets/pve-nvidia-hook", conf: "hookscript: local:snippets/pve-nvidia-hook\n", state: State{Hookscript: DefaultVolume}},
		{name: "storage-is-kept", gpus: "none", conf: "hookscript: nas:snippets/pve-nvidia-hook\n"},
		{name: "pending-deletion-called-off", gpus: "0", conf: enabled + "[pve:pending]\ndelete: dev0,dev1,dev2,dev3\n"},
		{name: "pending-entries-count", gpus: "none", conf: "[pve:pending]\nhookscript: local:snippets/pve-nvidia-hook\n"},
		{name: "pending-entries-given-up", gpus: "none", conf: "hookscript: local:snippets/pve-nvidia-hook\ndev0: /dev/nvidiactl,mode=0666\n" +
			"[pve:pending]\ndev1: /dev/nvidia0,mode=0666\n", state: ours},
		{name: "snapshots-do-not-count", gpus: "none", conf: "[old]\nhookscript: nas:snippets/backup.sh\ndev0: /dev/nvidia0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := PlanEnable(parse(t, c.conf), c.state, Want{Volume: c.volume, Choice: selected(t, c.gpus), Chain: c.chain})
			require.NoError(t, err)
			golden(t, "enable-"+c.name, p.text())
		})
	}
}

func TestDisablePlans(t *testing.T) {
	state := State{Hookscript: DefaultVolume, Dev: map[int]string{0: "/dev/nvidiactl,mode=0666", 1: "/dev/nvidia0,mode=0666", 7: "/dev/nvidia1,mode=0666"}}
	const enabled = "hookscript: local:snippets/pve-nvidia-hook\ndev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia0,mode=0660\ndev2: /dev/nvidia-uvm\ndev3: /dev/fuse\n"
	for _, c := range []struct {
		name, conf string
		state      State
		chain      string
	}{
		{"what-stands-goes", enabled, state, ""},
		{"chain-comes-back", enabled, state, "nas:snippets/backup.sh"},
		{"another-hookscript-stays", "hookscript: nas:snippets/other.sh\ndev0: /dev/nvidiactl,mode=0666\n", state, ""},
		{"without-a-record", enabled, State{}, ""},
		{"pending-values-are-taken-back", "hookscript: local:snippets/pve-nvidia-hook\ndev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia1,mode=0660\n" +
			"[pve:pending]\ndelete: dev1\ndev1: /dev/nvidia0,mode=0666\ndev7: /dev/nvidia1,mode=0666\n", state, ""},
		{"nothing-there", "arch: amd64\n", State{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden(t, "disable-"+c.name, PlanDisable(parse(t, c.conf), c.state, c.chain).text())
		})
	}
}

func TestAnotherHookscriptIsNotReplaced(t *testing.T) {
	_, err := PlanEnable(parse(t, "hookscript: nas:snippets/backup.sh\n"), State{}, Want{})
	require.EqualError(t, err, "container 101 has a hookscript already: nas:snippets/backup.sh")
	require.Contains(t, hint.Of(err), "--chain")
}

func TestNumbersRunOut(t *testing.T) {
	var conf strings.Builder
	for n := range maxDev {
		fmt.Fprintf(&conf, "dev%d: /dev/tty%d\n", n, n)
	}
	p, err := PlanEnable(parse(t, conf.String()), State{}, Want{Choice: Choice{Devices: nodes[:1]}})
	require.NoError(t, err)
	require.Contains(t, p.Set, KV{"dev255", "/dev/nvidia1,mode=0666"})
	_, err = PlanEnable(parse(t, conf.String()), State{}, Want{Choice: Choice{Devices: nodes[:2]}})
	require.ErrorContains(t, err, "dev0 to dev255 in use")
}

func TestSelectionNamesWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		gpus    string
		present []Device
		err     string
		hint    string
	}{
		{"all", nil, "this host has no device nodes of an NVIDIA GPU (/dev/nvidiactl, /dev/nvidia0)", "pve-nvidia-hook doctor"},
		{"2", nodes, "there is no GPU 2: this host has a card (GPU 0, /dev/nvidia0) and a card (GPU 1, /dev/nvidia1)", "devices --list"},
		{"first", nodes, `"first" is not a choice of GPUs`, "all, none"},
		{"0,", nodes, `"0," is not a choice of GPUs`, "all, none"},
		{"-1", nodes, `"-1" is not a choice of GPUs`, "all, none"},
	} {
		_, err := SelectDevices(c.present, nil, c.gpus)
		require.EqualError(t, err, c.err)
		require.Contains(t, hint.Of(err), c.hint)
	}
	c, err := SelectDevices(nodes[:3], nil, "1, 1")
	require.NoError(t, err)
	require.Equal(t, []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}, c.Missing)
	none, err := SelectDevices(nil, nil, "none")
	require.NoError(t, err)
	require.Empty(t, none.Devices)
}
