package pve

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// after is the configuration that a plan makes: at once, as of a stopped
// container, or as pending changes of one that runs.
func (p Plan) after(t *testing.T, c Conf, running bool) Conf {
	t.Helper()
	numbers := map[string]int{}
	for n := range maxDev + 1 {
		numbers[dev(n)] = n
	}
	c.Dev, c.Pending.Dev = maps.Clone(c.Dev), maps.Clone(c.Pending.Dev)
	to := &c.Section
	if running {
		to = &c.Pending
	}
	c.Delete = slices.Clone(c.Delete)
	key := func(key string) int {
		n, ok := numbers[key]
		require.True(t, ok || key == "hookscript", "%q", key)
		return n
	}
	for _, k := range p.Revert {
		n := key(k)
		if k == "hookscript" {
			c.Pending.Hookscript = ""
		} else {
			delete(c.Pending.Dev, n)
		}
		c.Delete = slices.DeleteFunc(c.Delete, func(other string) bool { return other == k })
	}
	for _, k := range p.Delete {
		n := key(k)
		switch {
		case running: // a pending value stays, and wins
			c.Delete = append(c.Delete, k)
		case k == "hookscript":
			c.Hookscript = ""
		default:
			delete(c.Dev, n)
		}
	}
	for _, kv := range p.Set {
		n, ok := numbers[kv.Key]
		require.True(t, ok || kv.Key == "hookscript", "%q", kv.Key)
		if kv.Key == "hookscript" {
			to.Hookscript = kv.Value
		} else {
			put(&to.Dev, n, kv.Value)
		}
		c.Delete = slices.DeleteFunc(c.Delete, func(key string) bool { return key == kv.Key })
	}
	return c
}

// Whatever a container's configuration holds: enable brings what was asked for,
// does nothing the second time, and disable leaves what was there before.
func FuzzEnableAndDisable(f *testing.F) {
	for _, text := range []string{
		full, "", "dev0: /dev/nvidiactl,mode=0666\ndev1: /dev/nvidia0,mode=0666\n[pve:pending]\ndelete: dev0,dev1\n",
		"dev0: /dev/dri/renderD128,gid=104\ndev2: /dev/nvidia0\ndev4: path=/dev/nvidiactl,mode=0660,gid=44\n",
		"lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file\nlxc.mount.entry = /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir\n",
		"hookscript: local:snippets/pve-nvidia-hook\n", "hookscript: nas:snippets/backup.sh\n[pve:pending]\ndelete: hookscript\n",
		"dev5: /dev/fuse\ndev7: mode=0666,/dev/nvidia-uvm\n[pve:pending]\ndev6: /dev/nvidia1\ndelete: 5,+7,dev07,!dev6\n", "[old]\nhookscript: nas:snippets/backup.sh\ndev0: /dev/nvidia0\n",
	} {
		f.Add(text, "all", true)
		f.Add(text, "0", false)
	}
	f.Add("", " 1, 1,", true)
	f.Add("", "none", true)
	f.Fuzz(func(t *testing.T, text, gpus string, chain bool) {
		c, err := ParseConf(strings.NewReader(text), false)
		if err != nil {
			return
		}
		with, err := ParseConf(strings.NewReader(text+"\n[a-snapshot]\n"+text), false)
		require.NoError(t, err)
		require.Equal(t, c.Section, with.Section, "a snapshot is another section")
		before := c.Next()
		for n := range maxDev + 1 {
			_, live := c.Dev[n]
			_, pending := c.Pending.Dev[n]
			_, left := before.Dev[n]
			require.Equal(t, pending || live && !slices.Contains(c.Delete, dev(n)), left, dev(n))
		}
		choice, err := SelectDevices(nodes, nil, gpus)
		if err != nil {
			return
		}
		devices := choice.Devices
		for i, d := range devices {
			require.Contains(t, nodes, d)
			require.NotContains(t, devices[:i], d)
		}
		want := Want{Choice: choice, Chain: chain}
		other := before.Hookscript != "" && !Ours(before.Hookscript)
		for _, running := range []bool{false, true} {
			c := c
			if !running {
				c.Section, c.Pending, c.Delete = before, Section{}, nil
			}
			p, err := PlanEnable(c, State{}, want)
			if err != nil {
				require.True(t, other && !chain || len(before.Dev)+len(c.Dev) > maxDev-len(nodes), "%v", err)
				continue
			}
			enabled := p.after(t, c, running)
			next := enabled.Next()
			require.True(t, Ours(next.Hookscript))
			paths := map[string]bool{}
			for n, value := range next.Dev {
				paths[devPath(value)] = true
				if old, ok := before.Dev[n]; ok {
					require.Equal(t, old, value, "the user's %s", dev(n))
				} else {
					require.Equal(t, p.State.Dev[n], value)
				}
			}
			for _, d := range devices {
				require.True(t, paths[d.Path] || mountedBy(before.LXC, d.Path) != "", "%s", d.Path)
			}
			again, err := PlanEnable(enabled, p.State, want)
			require.NoError(t, err)
			require.True(t, again.Empty(), "%v", again)
			require.Equal(t, p.State, again.State)

			if Ours(before.Hookscript) { // what stands in enable's own words came with it
				maps.DeleteFunc(before.Dev, func(_ int, value string) bool { return enabledLine().MatchString(value) })
			}
			end := PlanDisable(enabled, p.State, ChainOf(enabled.Next().Hookscript)).after(t, enabled, running).Next()
			require.Equal(t, before.Dev, end.Dev)
			if Ours(before.Hookscript) {
				require.Empty(t, end.Hookscript)
			} else {
				require.Equal(t, before.Hookscript, end.Hookscript)
			}
		}
	})
}

// A volume is a file in the folder of its storage and nowhere else.
func FuzzSnippetVolumes(f *testing.F) {
	const cfg = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,snippets\n\nnfs: nas\n\tserver a\n\ndir: x\n\tpath ../..\n\tcontent-dirs snippets=../../etc\n"
	f.Add(cfg, DefaultVolume)
	f.Add(cfg, "nas:snippets/../../x")
	f.Add(cfg, "x:snippets/..")
	f.Add("dir: y\n\tpath /a/../b\n\tcontent-dirs iso=z, snippets=//../c/\n", "y:snippets/\x1b[2J")
	f.Fuzz(func(t *testing.T, text, volume string) {
		all, err := ParseStorages(strings.NewReader(text))
		if err != nil {
			return
		}
		file, err := all.Path(volume)
		if err != nil {
			require.Empty(t, file)
			return
		}
		id, _, _ := strings.Cut(volume, ":")
		require.Equal(t, all[id].Snippets, filepath.Dir(file))
		require.True(t, filepath.IsAbs(file) && strings.HasSuffix(volume, ":snippets/"+filepath.Base(file)), "%q", file)
		require.True(t, all[id].Path == "/" || strings.HasPrefix(file, all[id].Path+"/"), "%q", file)
	})
}

// What pct says is cut to what matters.
func FuzzRefusalsOfPct(f *testing.F) {
	f.Add("trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout\n", uint8(1))
	f.Add("400 Parameter verification failed.\ndev0: invalid format - format error\npct set <vmid> [OPTIONS]\n", uint8(0))
	f.Add("x"+strings.Repeat("ö", 300)+"\n"+strings.Repeat("\x1b[31m\r\n", 20)+"x\ny\nz\nstorage '", uint8(9))
	f.Fuzz(func(t *testing.T, text string, at uint8) {
		said := reason(text)
		require.LessOrEqual(t, len(said), 5*500+4*len("; "))
		require.NotContains(t, said, "\n")
		require.True(t, utf8.ValidString(said) || !utf8.ValidString(text), "%q", said)
		require.LessOrEqual(t, len(explain(text)), 200)
		lines := strings.SplitAfter(strings.TrimSuffix(text, "\n")+"\n", "\n")
		i := int(at) % len(lines)
		for _, more := range []string{"trying to acquire lock...\n", " OK\n", "\n", "400 Parameter verification failed.\n", "pct set <vmid> [OPTIONS]\n"} {
			require.Equal(t, said, reason(strings.Join(slices.Insert(slices.Clone(lines), i, more), "")))
		}
	})
}
