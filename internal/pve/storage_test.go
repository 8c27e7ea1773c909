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
		"off:snippets/x":     "",
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
