package debtest

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A person's apt reads the repository that the release workflow makes, and takes
// it only as it was signed.
func TestAptInstallsFromTheRepository(t *testing.T) {
	need(t, "gpg", "apt-ftparchive", "apt-get")
	home, err := os.MkdirTemp("", "gpg-") // a gpg agent's socket needs a short path
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("GNUPGHOME", home)
	newKey := func(name string) string {
		sh(t, "gpg --batch --quiet --passphrase '' --quick-gen-key "+name+"@example.org ed25519 sign never")
		fields := strings.Split(sh(t, "gpg --batch --with-colons --list-keys "+name+"@example.org | grep ^fpr"), ":")
		return fields[9]
	}
	key, other := newKey("key"), newKey("other")
	said, err := makeDeb("apt-repo", "DEB_ARCHES=amd64 arm64", "VERSION="+newer)
	require.Error(t, err)
	require.Contains(t, said, "apt-repo: error: no key is named")
	said, err = makeDeb("apt-repo", "DEB_ARCHES=amd64 arm64", "VERSION="+newer, "KEY="+key)
	require.NoError(t, err, said)
	repo := filepath.Join(dist, "apt")

	fetched := t.TempDir()
	apt := func(keyring, command string) (string, error) {
		root := t.TempDir()
		for _, dir := range []string{"lists/partial", "cache/archives/partial", "parts", "sources"} {
			require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		}
		sources, err := os.ReadFile(filepath.Join(repo, "pve-nvidia-hook.sources"))
		require.NoError(t, err)
		text := strings.NewReplacer("https://thinkheads-ai.github.io/pve-nvidia-hook", "file://"+repo,
			"/usr/share/keyrings/pve-nvidia-hook.gpg", keyring).Replace(string(sources))
		require.Contains(t, text, "URIs: file://"+repo+"\n")
		require.Contains(t, text, "Signed-By: "+keyring+"\n")
		require.NoError(t, os.WriteFile(filepath.Join(root, "sources/hook.sources"), []byte(text), 0o644))
		config := filepath.Join(root, "apt.conf")
		require.NoError(t, os.WriteFile(config, []byte(strings.NewReplacer("ROOT", root).Replace(
			`Dir::State::lists "ROOT/lists"; Dir::State::status "/dev/null"; Dir::Cache "ROOT/cache"; Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "ROOT/sources"; APT::Sandbox::User "root"; APT::Update::Error-Mode "any";`)), 0o644))
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir, cmd.Env = fetched, append(os.Environ(), "LC_ALL=C", "APT_CONFIG="+config)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	published := filepath.Join(repo, "pve-nvidia-hook.gpg")
	const fetch = "apt-get update -q && apt-get download -q pve-nvidia-hook"
	said, err = apt(published, fetch)
	require.NoError(t, err, said)
	require.Equal(t, read(t, deb(newer)), read(t, filepath.Join(fetched, filepath.Base(deb(newer)))))

	foreign := filepath.Join(t.TempDir(), "other.gpg")
	sh(t, "gpg --batch --export "+other+" >"+foreign)
	said, err = apt(foreign, fetch)
	require.Error(t, err, said)
	require.Contains(t, said, "is not signed")
	sh(t, "echo >>"+repo+"/dists/stable/main/binary-"+runtime.GOARCH+"/Packages; rm "+repo+"/dists/stable/main/binary-*/Packages.gz")
	said, err = apt(published, fetch)
	require.Error(t, err, said)
}

func TestReleaseListsWhatIsInIt(t *testing.T) {
	said, err := makeDeb("release-files", "DEB_ARCHES=amd64 arm64", "VERSION="+newer)
	require.NoError(t, err, said)
	release := filepath.Join(dist, "release")
	checked := sh(t, "cd "+release+" && sha256sum --strict -c SHA256SUMS")
	for _, arch := range []string{"amd64", "arm64"} {
		name := "pve-nvidia-hook_" + newer + "_" + arch
		require.Contains(t, checked, name+".deb: OK\n")
		require.Contains(t, checked, name+".cdx.json: OK\n")
		var list struct {
			BOMFormat  string `json:"bomFormat"`
			Components []struct{ Name, Version string }
		}
		require.NoError(t, json.Unmarshal(read(t, filepath.Join(release, name+".cdx.json")), &list))
		require.Equal(t, "CycloneDX", list.BOMFormat)
		var listed, linked []string
		for _, c := range list.Components {
			listed = append(listed, c.Name+" "+c.Version)
		}
		info, err := buildinfo.ReadFile(filepath.Join(dist, arch, "pve-nvidia-hook"))
		require.NoError(t, err)
		linked = append(linked, "std "+info.GoVersion)
		for _, module := range info.Deps {
			linked = append(linked, module.Path+" "+module.Version)
		}
		require.ElementsMatch(t, linked, listed)
	}
	entries, err := os.ReadDir(release)
	require.NoError(t, err)
	require.Len(t, entries, 5)
}

func sh(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", script, &complaint)
	return string(out)
}
