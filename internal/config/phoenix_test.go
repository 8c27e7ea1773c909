package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/phoenix"
)

// phoenixDir holds a tree of Phoenix with our files beside it.
func phoenixDir(t testing.TB, lxc, hypervisor, config string) string {
	t.Helper()
	files, names := map[string]string{"config.toml": config}, "[phoenix]\n"
	if lxc != "" {
		files["ph/etc/lxc.json"] = lxc
		names += "lxc_configs = \"DIR/ph/etc/lxc.json\"\n"
	}
	if hypervisor != "" {
		files["ph/etc/hv.json"] = hypervisor
		names += "hypervisor_config = \"DIR/ph/etc/hv.json\"\n"
	}
	files["cluster.toml"] = names
	return write(t, files)
}

func phoenixFor(t testing.TB, vmid int, lxc, hypervisor, config string) (Settings, error) {
	t.Helper()
	c, err := load(phoenixDir(t, lxc, hypervisor, config))
	require.NoError(t, err)
	return c.For(vmid)
}

const url580 = "https://h/NVIDIA-Linux-x86_64-580.76.05.run"

func TestPhoenixVersionOwnThenParentThenRootThenHypervisor(t *testing.T) {
	hv := `{"nvidia_driver":{"version":"535.183.01","cuda_version":"12.8"}}`
	lxc := `{"nvidia_driver_version":"580.76.05","lxc_configs":{
		"900":{"features":["nvidia"],"nvidia_driver_version":"550.163.01"},
		"901":{"clone_from_ctid":"900"},
		"902":{"clone_from_ctid":"901","name":"third"},
		"903":{"clone_from_ctid":"901","nvidia_driver_version":"570.133.07"},
		"904":{"features":["nvidia"]}}}`
	for vmid, want := range map[int]string{
		900: `"550.163.01" lxc.json, container 900`,
		901: `"550.163.01" lxc.json, container 900 (parent of 901)`,
		902: `"550.163.01" lxc.json, container 900 (parent of 901, the parent of 902)`,
		903: `"570.133.07" lxc.json, container 903`,
		904: `"580.76.05" lxc.json`,
	} {
		s, err := phoenixFor(t, vmid, lxc, hv, "")
		require.NoError(t, err)
		require.Equal(t, want, row(s, "driver.version"))
		require.Equal(t, `"12.8" hv.json`, row(s, "cuda.toolkit"))
	}
	s, err := phoenixFor(t, 902, lxc, hv, "")
	require.NoError(t, err)
	require.Equal(t, "third", s.Name)
	s, err = phoenixFor(t, 904, `{"lxc_configs":{"904":{"features":["nvidia"]}}}`, hv, "")
	require.NoError(t, err)
	require.Equal(t, `"535.183.01" hv.json`, row(s, "driver.version"))
	s, err = phoenixFor(t, 901, lxc, hv, "[driver]\nversion = \"host\"\n")
	require.NoError(t, err)
	require.Equal(t, `"host" config.toml:2`, row(s, "driver.version"))
}

func TestPhoenixURLStandsFirst(t *testing.T) {
	hv := `{"nvidia_driver":{"version":"580.76.05","runfile_url":"https://hv/NVIDIA-Linux-x86_64-580.76.05.run"}}`
	lxc := func(root string) string {
		return `{` + root + `"lxc_configs":{
		"900":{"features":["nvidia"],"nvidia_runfile_url":"https://parent/580.76.05.run","nvidia_repo_url":"https://parent/repo/"},
		"901":{"clone_from_ctid":"900"},
		"902":{"features":["nvidia"]}}}`
	}
	root := `"nvidia_runfile_url":"https://root/driver.run","nvidia_repo_url":"https://root/repo/",`
	for _, c := range []struct {
		vmid           int
		root           string
		url, from      string
		repo, repoFrom string
	}{
		{900, root, "https://parent/580.76.05.run", "lxc.json, container 900", "https://parent/repo/", "lxc.json, container 900"},
		{901, root, "https://parent/580.76.05.run", "lxc.json, container 900 (parent of 901)", "https://parent/repo/", "lxc.json, container 900 (parent of 901)"},
		{902, root, "https://root/driver.run", "lxc.json", "https://root/repo/", "lxc.json"},
		{902, "", "https://hv/NVIDIA-Linux-x86_64-580.76.05.run", "hv.json", "", "default"},
	} {
		s, err := phoenixFor(t, c.vmid, lxc(c.root), hv, "")
		require.NoError(t, err)
		require.Equal(t, append([]string{c.url}, defaults(0).Driver.URLs...), s.Driver.URLs)
		require.Equal(t, c.from+", then default", s.Origin("driver.urls"))
		require.Equal(t, c.repo, s.CUDA.RepoURL)
		require.Equal(t, c.repoFrom, s.Origin("cuda.repo_url"))
	}
}

func TestPhoenixURLOfAnotherVersionIsNamedWithBoth(t *testing.T) {
	lxc := `{"nvidia_driver_version":"580.76.05",
  "lxc_configs":{"901":{"features":["nvidia"],"nvidia_driver_version":"570.133.07"},"902":{"features":["nvidia"]},"903":{}}}`
	hv := `{"nvidia_driver":{
  "runfile_url":"` + strings.Replace(url580, "https://", "https://me:hunter2@", 1) + `"}}`
	dir := phoenixDir(t, lxc, hv, "")
	c, err := load(dir)
	require.NoError(t, err)
	want := dir + `/ph/etc/hv.json:2: nvidia_driver.runfile_url: "https://***@h/NVIDIA-Linux-x86_64-580.76.05.run" is version 580.76.05, but version 570.133.07 is wanted (lxc.json, container 901); allowed: the URL of version 570.133.07, or a template with {version}`
	_, err = c.For(901)
	require.EqualError(t, err, want)
	mustFor(t, c, 902)
	mustFor(t, c, 903) // gets no driver, so needs no URL
	require.EqualError(t, c.Check(), want)

	// Of the versions, that which holds in the end counts, and so do the URLs.
	_, err = phoenixFor(t, 902, lxc, hv, "[driver]\nversion = \"550.163.01\"\n")
	require.ErrorContains(t, err, "is version 580.76.05, but version 550.163.01 is wanted")
	s, err := phoenixFor(t, 902, lxc, hv, "[driver]\nversion = \"550.163.01\"\nurls = [\"https://h/{file}\"]\n")
	require.NoError(t, err)
	require.Equal(t, []string{"https://h/{file}"}, s.Driver.URLs)
}

func TestPhoenixURLFollowsTheHostsVersion(t *testing.T) {
	hv := `{"nvidia_driver":{"runfile_url":"https://m:580.76.05@h/d/580.76.05/NVIDIA-Linux-x86_64-580.76.05.run"}}`
	s, err := phoenixFor(t, 101, "", hv, "")
	require.NoError(t, err)
	require.Equal(t, "host", s.Driver.Version)
	require.Equal(t, "https://m:580.76.05@h/d/{version}/NVIDIA-Linux-x86_64-{version}.run", s.Driver.URLs[0])
}

func TestPhoenixSaysWhoGetsADriver(t *testing.T) {
	lxc := `{"lxc_configs":{
		"900":{"gpu_assignment":"none","features":["base_setup"]},
		"901":{"clone_from_ctid":"900","gpu_assignment":"0, 1","features":["nvidia"]},
		"902":{"clone_from_ctid":"901","gpu_assignment":"0","features":["vllm"]},
		"903":{"clone_from_ctid":"901"},
		"904":{"clone_from_ctid":"901","gpu_assignment":"none","features":["vllm"]},
		"905":{"clone_from_ctid":"901","gpu_assignment":"none"},
		"906":{"clone_from_ctid":"777","gpu_assignment":""},
		"907":{"clone_from_ctid":"901","gpu_assignment":null,"features":[]}}}`
	on, off := `{"nvidia_driver":{"install":true}}`, `{"nvidia_driver":{"install":false}}`
	nothing := "lxc.json gives container %d neither the feature nvidia nor a GPU"
	for _, c := range []struct {
		vmid                 int
		lxc, hv, config      string
		wanted               bool
		gpus, origin, whyNot string
	}{
		{900, lxc, on, "", false, "none", "lxc.json", fmt.Sprintf(nothing, 900)},
		{901, lxc, on, "", true, "0,1", "lxc.json, container 901", ""},
		{902, lxc, on, "", true, "0", "lxc.json, container 902", ""},
		{903, lxc, on, "", true, "0,1", "lxc.json, container 901 (parent of 903)", ""},
		{904, lxc, on, "", false, "none", "lxc.json", fmt.Sprintf(nothing, 904)},
		{905, lxc, on, "", true, "none", "lxc.json, container 901 (parent of 905)", ""},
		{906, lxc, on, "", false, "all", "lxc.json", fmt.Sprintf(nothing, 906)},
		{907, lxc, on, "", true, "0,1", "lxc.json, container 901 (parent of 907)", ""},
		{950, lxc, on, "", false, "all", "lxc.json", "lxc.json does not name container 950"},
		{901, lxc, "", "", true, "0,1", "lxc.json, container 901", ""},
		{901, lxc, off, "", false, "0,1", "hv.json", "nvidia_driver.install is false in hv.json"},
		{901, "", off, "", false, "all", "hv.json", "nvidia_driver.install is false in hv.json"},
		{901, "", on, "", true, "all", "default", ""},
		{901, lxc, off, "[containers.901]\nenabled = true\ngpus = \"3\"\n", true, "3", "config.toml:2", ""},
		{901, lxc, on, "[containers.901]\nenabled = false\n", false, "0,1", "config.toml:2", "enabled is false in config.toml:2"},
		{900, lxc, on, "[containers.900]\ntimeout = \"1m\"\n", false, "none", "lxc.json", fmt.Sprintf(nothing, 900)},
	} {
		dir := phoenixDir(t, c.lxc, c.hv, c.config)
		conf, err := load(dir)
		require.NoError(t, err)
		s := mustFor(t, conf, c.vmid)
		cut := func(s string) string { return strings.ReplaceAll(s, dir+"/", "") }
		require.Equal(t, []any{c.wanted, c.gpus, c.origin, c.whyNot}, []any{s.Wanted, s.GPUs, cut(s.Origin("enabled")), cut(s.WhyNot)}, "%d %s %s", c.vmid, c.hv, c.config)
	}
}

func TestCloneLoopIsNamed(t *testing.T) {
	lxc := `{"lxc_configs":{
"901":{"clone_from_ctid":"902"},
"902":{"clone_from_ctid":"903","features":["nvidia"]},
"903":{"clone_from_ctid":"902"},
"904":{"clone_from_ctid":"904"},
"905":{"features":["nvidia"]}}}`
	dir := phoenixDir(t, lxc, "", "[containers.904]\nenabled = false\n")
	c, err := load(dir)
	require.NoError(t, err)
	want := dir + "/ph/etc/lxc.json:4: lxc_configs.903.clone_from_ctid: the containers are cloned from each other: 902 -> 903 -> 902; allowed: a chain of clones that ends"
	_, err = c.For(901)
	require.EqualError(t, err, want)
	mustFor(t, c, 904) // switched off
	mustFor(t, c, 905) // no part of it
	require.ErrorContains(t, c.Check(), want)
}

func TestPhoenixCacheStandsBesideItsEtc(t *testing.T) {
	dir := phoenixDir(t, `{}`, "", "")
	c, err := load(dir)
	require.NoError(t, err)
	s := mustFor(t, c, 101)
	require.Equal(t, dir+"/ph/cache", s.Cache.Dir)
	require.Equal(t, "the folder cache beside "+dir+"/ph/etc", s.Origin("cache.dir"))

	s, err = phoenixFor(t, 101, `{}`, "", "[cache]\ndir = \"/srv/cache\"\n")
	require.NoError(t, err)
	require.Equal(t, "/srv/cache", s.Cache.Dir)

	for file, want := range map[string]string{
		"/opt/p/etc/x.json": "/opt/p/cache", "/opt/p/x.json": "", "/etc/x.json": "",
	} {
		var p phoenix.Phoenix
		require.Empty(t, p.ReadHypervisorConfig(file, []byte("{}"), checkPhoenix))
		dir, _ := p.CacheDir()
		require.Equal(t, want, dir, file)
	}
}

func TestClusterFileMayNameCacheAndPhoenix(t *testing.T) {
	c := mustLoad(t, map[string]string{
		"cluster.toml": "[cache]\ndir = \"/srv/shared\"\n[phoenix]\nlxc_configs = \"DIR/etc/lxc.json\"\n",
		"etc/lxc.json": "{}",
	})
	require.Equal(t, "/srv/shared", mustFor(t, c, 101).Cache.Dir)
	c = mustLoad(t, map[string]string{
		"cluster.toml": "[phoenix]\nlxc_configs = \"DIR/not/there.json\"\n",
		"config.toml":  "[phoenix]\nlxc_configs = \"\"\n",
	})
	require.True(t, mustFor(t, c, 101).Wanted)
}

func TestBrokenJSONHasItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\"lxc_configs\": {\n}":         "lxc.json:3: JSON syntax: unexpected end of JSON input",
		"{\n\"a\": 1,\n\"b\" 2\n}":         "lxc.json:3: JSON syntax: invalid character '2' after object key",
		"[]":                               "lxc.json:1: must be an object, is a list",
		"{\"lxc_configs\": 5}":             "lxc.json:1: lxc_configs: must be an object, is a number",
		"{\"a\": 1}\n{}":                   "lxc.json:2: JSON syntax: invalid character",
		strings.Repeat("[", 20000):         "lxc.json:1: JSON syntax: invalid character '[' exceeded max depth",
		"{\"lxc_configs\":{\"0101\": {}}}": "lxc.json:1: lxc_configs.0101: is not a valid VMID",
	} {
		_, err := load(phoenixDir(t, text, "", ""))
		require.ErrorContains(t, err, want)
	}
}

func TestPhoenixExamples(t *testing.T) {
	c := mustLoad(t, map[string]string{
		"config.toml":                        "[phoenix]\nlxc_configs = \"DIR/etc/phoenix_lxc_configs.json\"\nhypervisor_config = \"DIR/etc/phoenix_hypervisor_config.json\"\n",
		"etc/phoenix_lxc_configs.json":       example(t, "phoenix_lxc_configs.json"),
		"etc/phoenix_hypervisor_config.json": example(t, "phoenix_hypervisor_config.json"),
	})
	require.NoError(t, c.Check())
	require.Equal(t, []int{900, 910, 911, 912}, c.Containers())
	all := ""
	for _, vmid := range c.Containers() {
		s := mustFor(t, c, vmid)
		dir := strings.TrimSuffix(s.Cache.Dir, "/cache")
		all += fmt.Sprintf("[%d]\n%s\n", vmid, strings.ReplaceAll(rows(s), dir, "/phoenix"))
	}
	golden(t, "phoenix.golden", all)
}

func TestLongChainOfClonesIsRefusedAtOnce(t *testing.T) {
	text := func(chains, length int) string {
		var b strings.Builder
		b.WriteString(`{"lxc_configs":{"90":{}`)
		for c := range chains {
			for i := range length {
				fmt.Fprintf(&b, ",\n\"%d\":{\"features\":[\"nvidia\"]", 1000+c*length+i)
				if i > 0 {
					fmt.Fprintf(&b, `,"clone_from_ctid":"%d"`, 1000+c*length+i-1)
				}
				b.WriteString("}")
			}
		}
		return strings.Replace(b.String(), `"90":{},`, "", 1) + "}}"
	}
	check := func(chains, length int) error {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(dir+"/lxc.json", []byte(text(chains, length)), 0o600))
		require.NoError(t, os.WriteFile(dir+"/c.toml", []byte("[phoenix]\nlxc_configs = \""+dir+"/lxc.json\"\n"), 0o600))
		c, err := Load(dir+"/c.toml", Options{Named: true, HostRoot: dir})
		require.NoError(t, err)
		began := time.Now()
		err = c.Check()
		require.Less(t, time.Since(began), 10*time.Second, "20 s and more without a bound; 0.1 s with it")
		return err
	}
	err := check(1, 8900)
	require.ErrorContains(t, err, "lxc.json: lxc_configs: more than 64 containers are cloned one from the other")
	require.Len(t, strings.Split(err.Error(), "\n"), 1)
	require.NoError(t, check(2, 64))
}
