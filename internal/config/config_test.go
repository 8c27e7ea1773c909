package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// write puts files into a new folder and returns it. DIR in their text becomes the folder.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644))
		require.NoError(t, os.Chmod(name, 0o644)) // whatever the umask is
	}
	return dir
}

// load reads config.toml and cluster.toml of a folder.
func load(dir string) (*Config, error) {
	return Load(filepath.Join(dir, "config.toml"), Options{Cluster: filepath.Join(dir, "cluster.toml")})
}

func mustLoad(t testing.TB, files map[string]string) *Config {
	t.Helper()
	c, err := load(write(t, files))
	require.NoError(t, err)
	return c
}

func mustFor(t testing.TB, c *Config, vmid int) Settings {
	t.Helper()
	s, err := c.For(vmid)
	require.NoError(t, err)
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(got), 0o644))
	}
	want, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test ./internal/config -update writes it anew")
}

func rows(s Settings) string {
	var b strings.Builder
	for _, r := range s.Rows() {
		fmt.Fprintf(&b, "%s = %s  # %s\n", r.Key, r.Text(), r.Origin)
	}
	fmt.Fprintf(&b, "wanted=%v why_not=%q name=%q\n", s.Wanted, s.WhyNot, s.Name)
	return b.String()
}

func TestNoFilesMeansDefaults(t *testing.T) {
	s := mustFor(t, mustLoad(t, nil), 101)
	require.Equal(t, defaults(101), s)
	golden(t, "defaults.golden", rows(s))
}

func TestLaterLayerWins(t *testing.T) {
	c := mustLoad(t, map[string]string{
		"cluster.toml": "[driver]\nversion = \"550.163.01\"\nverify = \"files\"\non_mismatch = \"install\"\n" +
			"[install]\ndeliver = \"mount\"\n[containers.101]\ntimeout = \"3m\"\non_mismatch = \"refuse\"\nbackground = \"never\"\n",
		"config.toml": "[driver]\nversion = \"580.76.05\"\non_mismatch = \"install\"\n" +
			"[containers.101]\nbackground = \"always\"\ninstall.deliver = \"push\"\n[containers.101.driver]\nversion = \"580.142\"\n",
	})
	s := mustFor(t, c, 101)
	for key, want := range map[string]string{
		"driver.version":     `"580.142" config.toml:8`, // [containers.101.driver] of config.toml
		"driver.verify":      `"files" cluster.toml:3`,
		"driver.on_mismatch": `"refuse" cluster.toml:9`, // a container's value beats any global one
		"install.deliver":    `"push" config.toml:6`,
		"install.timeout":    `"3m" cluster.toml:8`,
		"install.background": `"always" config.toml:5`,
		"cache.keep":         `2 default`,
	} {
		require.Equal(t, want, row(s, key), key)
	}
	require.Equal(t, `"580.76.05" config.toml:2`, row(mustFor(t, c, 102), "driver.version"))
	require.Equal(t, []int{101}, c.Containers())
}

// row is value and origin of one key, the folder cut off.
func row(s Settings, key string) string {
	for _, r := range s.Rows() {
		if r.Key == key {
			return r.Text() + " " + filepath.Base(r.Origin)
		}
	}
	return "no such key"
}

func TestEveryMistakeIsNamedAtOnce(t *testing.T) {
	dir := write(t, map[string]string{
		"cluster.toml":    mistakes("mistakes-cluster.toml", t),
		"config.toml":     mistakes("mistakes-config.toml", t),
		"lxc.json":        mistakes("mistakes-lxc.json", t),
		"hypervisor.json": mistakes("mistakes-hypervisor.json", t),
	})
	_, err := load(dir)
	require.Error(t, err)
	golden(t, "mistakes.golden", strings.ReplaceAll(err.Error(), dir+"/", "")+"\n")
	require.NotContains(t, err.Error(), "hunter2")
	require.Contains(t, hint.Of(err), "config check")
	var m Mistakes
	require.ErrorAs(t, err, &m)
	for _, one := range m {
		require.NotZero(t, one.Line, one.String())
	}
	for range 5 { // maps are walked in any order, reports are not
		_, again := load(dir)
		require.Equal(t, err.Error(), again.Error())
	}
}

func mistakes(name string, t *testing.T) string {
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return string(data)
}

func TestSyntaxErrorHasLineAndNoSecret(t *testing.T) {
	for text, want := range map[string]string{
		"[cuda]\nrepo_url = https://u:hunter2@h/\n":     `config\.toml:2: .*TOML syntax`,
		"[cuda]\nrepo_url = \"https://u:hunter2@h/\n\n": `config\.toml:2: .*TOML syntax`,
		"[cuda]\ntoolkit = \"\"\n[driver\n":             `config\.toml:3: TOML syntax: expected '\.' or '\]'`,
		"[cuda]\nrepo_url\n":                            `config\.toml:2: TOML syntax: expected '\.' or '='`,
		"[cuda x]\n":                                    `config\.toml:1: .*TOML syntax`,
		"[driver]\n[driver]\n":                          `config\.toml:2: TOML syntax: Key 'driver' stands twice: keep the first, and put what is new there`,
		"[driver]\nkeep = 1\nkeep=2\n":                  `config\.toml:3: .*TOML syntax: Key 'driver.keep' stands twice`,
		"\x00":                                          `config\.toml:1: .*TOML syntax`,
		"[cuda]\nrepo_url = hunter2\n":                  `config\.toml:2: cuda\.repo_url: TOML syntax: expected a value; text needs quotes`,
		"[cuda]\nrepo_url = \"hunter2\\u12\"\n":         `config\.toml:2: cuda\.repo_url: TOML syntax: .* but got \.\.\. instead`,
	} {
		_, err := load(write(t, map[string]string{"config.toml": text}))
		require.Error(t, err, text)
		require.Regexp(t, want, err.Error())
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestNamesCannotBreakTheReport(t *testing.T) {
	_, err := load(write(t, map[string]string{"config.toml": "[driver]\n\"a\\nb\\u001b[2J\" = 1\n\"" + strings.Repeat("x", 5000) + "\" = 1\n"}))
	require.ErrorContains(t, err, `config.toml:2: driver.a\nb\x1b[2J: unknown key`)
	require.Less(t, len(err.Error()), 1000)
}

func TestMissingFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir+"/none.toml", Options{Cluster: dir + "/none", Named: true})
	require.EqualError(t, err, dir+"/none.toml: no such file")
	_, err = Load(dir+"/none.toml", Options{HostRoot: dir})
	require.NoError(t, err)
}

func TestClusterFileIsFoundBelowHostRoot(t *testing.T) {
	dir := write(t, map[string]string{"etc/pve/pve-nvidia-hook.toml": "[cache]\nkeep = 7\n"})
	c, err := Load(dir+"/none.toml", Options{HostRoot: dir})
	require.NoError(t, err)
	require.Equal(t, 7, mustFor(t, c, 100).Cache.Keep)
}

func TestFileThatOthersMayWriteIsRefused(t *testing.T) {
	for _, mode := range []os.FileMode{0o664, 0o646, 0o666} {
		dir := write(t, map[string]string{"config.toml": ""})
		require.NoError(t, os.Chmod(dir+"/config.toml", mode))
		_, err := load(dir)
		require.ErrorContains(t, err, "is writable by others")
	}
	dir := write(t, map[string]string{"config.toml": "[phoenix]\nlxc_configs = \"DIR/lxc.json\"\n", "lxc.json": "{}"})
	require.NoError(t, os.Chmod(dir+"/lxc.json", 0o666))
	_, err := load(dir)
	require.ErrorContains(t, err, dir+"/config.toml:2: phoenix.lxc_configs: "+dir+"/lxc.json: is writable by others")
}

func TestFileOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	dir := write(t, map[string]string{"config.toml": ""})
	require.NoError(t, os.Chown(dir+"/config.toml", 1234, 0))
	_, err := load(dir)
	require.ErrorContains(t, err, "belongs to user 1234, not to root")
}

func TestOnlyRegularFilesOfBoundedSizeAreRead(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(dir+"/config.toml", 0o755))
	_, err := load(dir)
	require.ErrorContains(t, err, "is not a regular file")

	dir = write(t, map[string]string{"config.toml": strings.Repeat("#", maxFile+1)})
	_, err = load(dir)
	require.ErrorContains(t, err, "is larger than 1048576 bytes")

	mustLoad(t, map[string]string{"config.toml": strings.Repeat("#", maxFile)})
}

func TestShippedFileIsTheDefaultsAndNamesEveryKey(t *testing.T) {
	data, err := os.ReadFile("../../packaging/config.toml")
	require.NoError(t, err)
	// A line that starts with # and no space is a setting.
	open := regexp.MustCompile(`(?m)^#([^ \n])`).ReplaceAllString(string(data), "$1")
	require.NotEqual(t, string(data), open)
	require.NotRegexp(t, `(?m)^[^#\n\[]`, string(data), "a setting is not commented out")
	// Whoever takes the # from one line alone must not stop everything by it.
	for _, at := range regexp.MustCompile(`(?m)^#[^ \n]`).FindAllIndex(data, -1) {
		one := slices.Delete(slices.Clone(data), at[0], at[0]+1)
		mustFor(t, mustLoad(t, map[string]string{"config.toml": string(one)}), 101)
	}

	c := mustLoad(t, map[string]string{"config.toml": open})
	s := mustFor(t, c, 101)
	origins := s.origins
	s.origins = nil
	require.Equal(t, defaults(101), s)
	for _, k := range keys {
		require.Contains(t, origins[k.name], "config.toml:", "%s is not in packaging/config.toml", k.name)
	}
	require.Equal(t, defaults(101), mustFor(t, mustLoad(t, map[string]string{"config.toml": string(data)}), 101))
}

// The manual page's list of settings is made from the comments of the shipped file.
func TestManPageHasTheSettingsOfTheShippedFile(t *testing.T) {
	const name, begin, end = "../../packaging/man/pve-nvidia-hook.toml.5.md", "\n# SECTIONS\n\n", "# SERVICES\n"
	shipped, err := os.ReadFile("../../packaging/config.toml")
	require.NoError(t, err)
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(data), begin)
	require.True(t, ok)
	list, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)
	want := settingsOf(string(shipped))
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(head+begin+want+end+tail), 0o644))
		return
	}
	require.Equal(t, want, list, "go test ./internal/config -update writes it anew")
}

// settingsOf makes Markdown of the sections of the shipped file.
func settingsOf(text string) string {
	var page strings.Builder
	var said []string
	for line := range strings.Lines(text[strings.Index(text, "\n[")+1:]) {
		line = strings.TrimSuffix(line, "\n")
		name, value, isKey := strings.Cut(strings.TrimPrefix(line, "#"), " = ")
		switch {
		case strings.HasPrefix(line, "["):
			page.WriteString("## " + strings.Replace(line, "[containers]", "[containers.VMID]", 1) + "\n\n")
		case strings.HasPrefix(line, "# "):
			said = append(said, line[2:])
		case isKey:
			page.WriteString("**" + strings.TrimPrefix(name, "101.") + "** = " + value + "\n: " + strings.Join(said, "\n") + "\n\n")
			said = nil
		case len(said) > 0: // the section's own words
			page.WriteString(strings.Join(said, "\n") + "\n\n")
			said = nil
		}
	}
	return page.String()
}

func TestSettingsSurviveJSON(t *testing.T) {
	c := mustLoad(t, map[string]string{"config.toml": "[driver]\nurls = []\nflags = [\"--no-opengl-files\"]\n[cache]\nkeep = 5\nlock_timeout = \"90s\"\n" +
		"[containers.101]\nenabled = false\ngpus = \"0, 1\"\n"})
	for _, vmid := range []int{100, 101} {
		s := mustFor(t, c, vmid)
		data, err := json.Marshal(struct{ S Settings }{s})
		require.NoError(t, err)
		var back struct{ S Settings }
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, s, back.S)
	}
	var s Settings
	require.NoError(t, json.Unmarshal([]byte(`{"vmid":7,"wanted":true,"values":{"no.such":1}}`), &s))
	require.Equal(t, defaults(7), s)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"values":{"cache.keep":"x"}}`), &s), "cache.keep: must be a whole number")
}

func TestSettingsDoNotShareTheirLists(t *testing.T) {
	c := mustLoad(t, map[string]string{"config.toml": "[cuda]\npackages = [\"nvtop\"]\n"})
	one := mustFor(t, c, 101)
	one.CUDA.Packages[0], one.Driver.URLs[0] = "changed", "changed"
	require.Equal(t, []string{"nvtop"}, mustFor(t, c, 101).CUDA.Packages)
	require.Equal(t, defaults(101).Driver.URLs, mustFor(t, c, 101).Driver.URLs)
}

func TestCredentialsAreCut(t *testing.T) {
	c := mustLoad(t, map[string]string{"config.toml": "[driver]\nurls = [\"https://me:hunter2@mirror.example/{file}?token=hunter2\"]\n"})
	s := mustFor(t, c, 101)
	require.Equal(t, []string{"https://me:hunter2@mirror.example/{file}?token=hunter2"}, s.Driver.URLs)
	require.NotContains(t, rows(s), "hunter2")
	data, err := json.Marshal(s.Redacted())
	require.NoError(t, err)
	require.NotContains(t, string(data), "hunter2")
	require.Contains(t, s.Driver.URLs[0], "hunter2") // s itself is as it was
	for in, want := range map[string]string{
		"https://u:p@h/f":        "https://***@h/f",
		"https://h/f":            "https://h/f",
		"https://u:p/q@h/f":      "https://***@h/f",
		"https://u:p?q@h/f":      "https://***",
		"u:p@h/f":                "***@h/f",
		"https://h/f?sig=1":      "https://h/f?***",
		"":                       "",
		"https://u:p@x@h/{file}": "https://***@h/{file}",
	} {
		require.Equal(t, want, RedactURL(in), in)
	}
}

func TestSwitchedOffByHand(t *testing.T) {
	c := mustLoad(t, map[string]string{"config.toml": "[containers.101]\nenabled = false\n"})
	s := mustFor(t, c, 101)
	require.False(t, s.Wanted)
	require.Regexp(t, `^enabled is false in .*config\.toml:2$`, s.WhyNot)
}

func TestHTTPNeedsAPinnedSum(t *testing.T) {
	text := "[driver]\nurls = [\"http://mirror.lan/{file}\"]\n[containers.102]\nsha256 = \"" + strings.Repeat("Ab", 32) + "\"\n[containers.103]\nenabled = false\n"
	dir := write(t, map[string]string{"config.toml": text})
	c, err := load(dir)
	require.NoError(t, err)
	_, err = c.For(101)
	require.ErrorContains(t, err, dir+`/config.toml:2: driver.urls: "http://mirror.lan/{file}" is not https, and no sha256 is pinned`)
	require.Equal(t, strings.Repeat("ab", 32), mustFor(t, c, 102).Driver.SHA256)
	mustFor(t, c, 103) // not wanted, nothing is fetched for it
	require.ErrorContains(t, c.Check(), "no sha256 is pinned")
}

func TestURLOfAnotherVersionIsRefused(t *testing.T) {
	c := mustLoad(t, map[string]string{"config.toml": "[driver]\nversion = \"580.76.05\"\nurls = [\"https://h/NVIDIA-Linux-x86_64-550.163.01.run\"]\n"})
	_, err := c.For(101)
	require.ErrorContains(t, err, "is version 550.163.01, but version 580.76.05 is wanted")
}

func example(t testing.TB, name string) string {
	data, err := os.ReadFile("../../contrib/phoenix/" + name)
	require.NoError(t, err)
	return string(data)
}

func TestExamplesOfTheManPageLoad(t *testing.T) {
	data, err := os.ReadFile("../../packaging/man/pve-nvidia-hook.toml.5.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	require.Len(t, blocks, 4)
	for _, b := range blocks {
		text := regexp.MustCompile(`/usr/local/phoenix_hypervisor/etc/`).ReplaceAllString(b[1], "DIR/etc/")
		c := mustLoad(t, map[string]string{"config.toml": text,
			"etc/phoenix_lxc_configs.json":       example(t, "phoenix_lxc_configs.json"),
			"etc/phoenix_hypervisor_config.json": example(t, "phoenix_hypervisor_config.json")})
		require.NoError(t, c.Check(), text)
		require.NotEqual(t, defaults(101), mustFor(t, c, 101), "an example that changes nothing")
	}
}
