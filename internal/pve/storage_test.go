package pve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSnippetVolumesLeadToFiles(t *testing.T) {
	all, err := ParseStorages(strings.NewReader(`# comment
dir: local
	path /var/lib/vz
	content iso,snippets

nfs: nas
	server 192.0.2.1
	export /x
	content snippets
	nodes pve1,pve2

cephfs: fs
	path /mnt/other
	content snippets

dir: moved
	path /srv/x/
	content-dirs iso=images,snippets=own/scripts

zfspool: zfs
	pool rpool/data

dir: off
	path /srv/off
	disable
`))
	require.NoError(t, err)
	require.Equal(t, []string{"pve1", "pve2"}, all["nas"].Nodes)
	require.True(t, all["nas"].Shared)
	for volume, want := range map[string]string{
		"local:snippets/x":   "/var/lib/vz/snippets/x",
		"nas:snippets/x.sh":  "/mnt/pve/nas/snippets/x.sh",
		"fs:snippets/x":      "/mnt/other/snippets/x",
		"moved:snippets/x":   "/srv/x/own/scripts/x",
		"zfs:snippets/x":     "",
		"off:snippets/x":     "/srv/off/snippets/x",
		"other:snippets/x":   "",
		"local:iso/x.iso":    "",
		"local:snippets/":    "",
		"local:snippets/..":  "",
		"local:snippets/a/b": "",
		"/etc/passwd":        "",
		"":                   "",
	} {
		got, err := all.Path(volume)
		require.Equal(t, want, got, volume)
		require.Equal(t, want == "", err != nil, volume)
	}
}

// btrfsInstall is the storage.cfg that Proxmox's installer writes for a BTRFS root.
const btrfsInstall = `dir: local
	path /var/lib/vz
	content iso,vztmpl,backup
	disable

btrfs: local-btrfs
	path /var/lib/pve/local-btrfs
	content iso,vztmpl,backup,images,rootdir,import
`

func TestDisabledStorageStillHoldsHookscripts(t *testing.T) {
	n := newNode(t)
	n.file("etc/pve/storage.cfg", btrfsInstall)
	n.o.Chain, n.o.GPUs = true, "none"
	_, err := n.enable(101, 102)
	require.NoError(t, err)
	require.Contains(t, n.conf(102), "hookscript: local:snippets/pve-nvidia-hook")
	require.FileExists(t, filepath.Join(n.o.Root, "var/lib/vz/snippets/pve-nvidia-hook"))

	n.file("etc/pve/storage.cfg", "nfs: nas\n\tserver 192.0.2.1\n\tdisable\n")
	n.o.Storage = "nas"
	_, err = n.enable(102)
	require.ErrorContains(t, err, "storage nas is disabled: Proxmox VE does not mount it")
}

// Each line says what Proxmox's own parser makes of a section.
func TestStoragesAreReadAsProxmoxReadsThem(t *testing.T) {
	for text, want := range map[string]Storage{
		"dir: x\n\tpath\t/srv/x\n\tshared\t1\n":                      {Path: "/srv/x", Shared: true},
		"dir: x\n\tpath /srv/x\n\tshared\n":                          {Path: "/srv/x", Shared: true},
		"dir: x\n\tpath /srv/x\n\tshared no\n":                       {Path: "/srv/x"},
		"dir: x\n\tpath /srv/x\n\tdisable\n":                         {Path: "/srv/x", Disabled: true},
		"dir: x\n\tpath /srv/x/\n\tis_mountpoint yes\n":              {Path: "/srv/x", Mounted: "/srv/x"},
		"dir: x\n\tpath /srv/x\n\tis_mountpoint /srv\n":              {Path: "/srv/x", Mounted: "/srv"},
		"dir: x\n\tpath /srv/x\n\tis_mountpoint 0\n":                 {Path: "/srv/x"},
		"dir: x\n\tpath /srv/x\n\tnodes a;b c\n":                     {Path: "/srv/x", Nodes: []string{"a", "b", "c"}},
		"dir: x\n\tpath /srv/x\n\tpath /srv/y\n":                     {Path: "/srv/x"},
		"dir: x\n\tpath /srv/x\n  # path /srv/y\n":                   {Path: "/srv/x"},
		"dir: x\n\tpath /srv/x\ndir: y\n\tshared\n":                  {Path: "/srv/x", Shared: true},
		"dir: x\npath /srv/y\n\tpath /srv/x\n":                       {Path: "/srv/x"},
		"DIR:x \n\tpath /srv/x":                                      {Path: "/srv/x"},
		"dir: x\n\tpath /srv/x\n\tcontent-dirs iso=i;snippets=a/b\n": {Path: "/srv/x", Snippets: "/srv/x/a/b"},
		"dir: x\n\tpath /srv/x\n\tcontent-dirs iso=i snippets=a\n":   {Path: "/srv/x", Snippets: "/srv/x/a"},
		"cifs: x\n\tserver s\n":                                      {Type: "cifs", Path: "/mnt/pve/x", Shared: true, Mounted: "/mnt/pve/x"},
	} {
		all, err := ParseStorages(strings.NewReader(text))
		require.NoError(t, err)
		want.ID = "x"
		if want.Type == "" {
			want.Type = "dir"
		}
		if want.Snippets == "" {
			want.Snippets = want.Path + "/snippets"
		}
		require.Equal(t, want, all["x"], text)
		require.NotContains(t, all, "y", text)
	}
}

func TestLocalIsTheSameWhateverIsSaidOfIt(t *testing.T) {
	for _, text := range []string{
		"dir: local\n\tpath /srv/elsewhere\n\tcontent-dirs snippets=x\n",
		"nfs: local\n\tserver 192.0.2.1\n",
		"dir: local\n\tpath /var/lib/vz\n\tnodes pve7\n",
		"dir: local\n",
		"",
	} {
		all, err := ParseStorages(strings.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, local, all["local"], text)
	}
	all, err := ParseStorages(strings.NewReader("dir: local\n\tpath /var/lib/vz\n\tcontent-dirs snippets=x\n"))
	require.NoError(t, err)
	require.Equal(t, "/var/lib/vz/x", all["local"].Snippets)
}

func TestLocalIsAlwaysThere(t *testing.T) {
	all, err := ReadStorages(t.TempDir())
	require.NoError(t, err)
	file, err := all.Path(DefaultVolume)
	require.NoError(t, err)
	require.Equal(t, "/var/lib/vz/snippets/pve-nvidia-hook", file)
}

func TestProxyOfTheDatacenter(t *testing.T) {
	root := t.TempDir()
	proxy, err := HTTPProxy(root)
	require.NoError(t, err)
	require.Empty(t, proxy)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/pve"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/pve/datacenter.cfg"), []byte("keyboard: de\nhttp_proxy: http://proxy.example:3128\n"), 0o644))
	proxy, err = HTTPProxy(root)
	require.NoError(t, err)
	require.Equal(t, "http://proxy.example:3128", proxy)
}

func TestSnippetIsMadeRightAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "snippets", "pve-nvidia-hook")
	require.NoError(t, EnsureSnippet(file))
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, EnsureSnippet(file))
	fi, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o755, fi.Mode().Perm())
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n# older\nprogram=/usr/bin/pve-nvidia-hook\n"), 0o755))
	require.NoError(t, EnsureSnippet(file))
	stands, err := SnippetStands(file)
	require.NoError(t, err)
	require.True(t, stands)
}
