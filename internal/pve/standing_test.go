package pve

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
)

func TestOnlyWhatIsAskedForFollows(t *testing.T) {
	root := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	ours := "hookscript: local:snippets/pve-nvidia-hook\n"
	for name, text := range map[string]string{
		"pve1/lxc/101": ours,
		"pve1/lxc/102": "[pve:pending]\n" + ours,
		"pve1/lxc/103": ours + "[pve:pending]\ndelete: hookscript\n",
		"pve1/lxc/104": "[before]\n" + ours,
		"pve1/lxc/105": "hookscript: local:snippets/other\n",
		"pve1/lxc/106": "hostname: named\n",
		"pve1/lxc/107": "hostname: off\n",
		"pve1/lxc/108": "hostname: disabled\n",
		"pve2/lxc/109": ours, "pve1/qemu-server/110": ours,
	} {
		file("etc/pve/nodes/"+name+".conf", text)
	}
	require.NoError(t, os.Symlink("nodes/pve1", filepath.Join(root, "etc/pve/local")))
	file("lxc/112/config", "")
	file("state/runs/103/x.json", "{}")
	file("state/runs/108/x.json", "{}")
	file("state/runs/111/x.json", "{}") // destroyed
	file("state/enabled/101.json", `{"hookscript": "local:snippets/pve-nvidia-hook"}`)
	file("state/enabled/105.json", `{"hookscript": "local:snippets/pve-nvidia-hook"}`)
	file("config.toml", "[paths]\nlxc = \""+root+"/lxc\"\nstate = \""+root+"/state\"\n"+
		"[containers.106]\n[containers.107]\nenabled = false\n[containers.109]\n")
	conf, err := config.Load(filepath.Join(root, "config.toml"), config.Options{HostRoot: root, Named: true})
	require.NoError(t, err)
	look := func() map[int]Standing {
		guests, _ := Guests(root)
		return Standings(root, guests, conf)
	}
	require.Equal(t, map[int]Standing{101: Follows, 102: Follows, 103: Past, 105: Lost, 106: Follows, 108: Past}, look())

	// With the cluster file system away, nothing says that they do not.
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/pve/nodes")))
	require.Equal(t, map[int]Standing{101: Follows, 103: Follows, 105: Follows, 106: Follows, 108: Follows, 109: Follows, 111: Follows}, look())

	// Without Proxmox VE they are LXC's.
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/pve")))
	require.Equal(t, map[int]Standing{106: Follows, 109: Follows, 112: Follows}, look())
}
