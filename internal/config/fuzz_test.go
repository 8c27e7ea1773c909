package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/stretchr/testify/require"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/phoenix"
)

func seeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(pattern)
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, name := range files {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
}

// FuzzTOML: whatever the file holds, there are settings or mistakes with a line, and never a panic.
func FuzzTOML(f *testing.F) {
	seeds(f, "testdata/mistakes-*.toml")
	seeds(f, "../../packaging/config.toml")
	for _, s := range []string{
		"a.b.c = 1", "\"a b\".'c\"' = '''\nx'''''\n[d]", "[driver]\nurls = [ # x]\n\"]\",\n]\nsha256 = \"\"\"a\\\"\"\"\"\"\n",
		"driver = {version = \"host\"}", "[[containers]]\nx=1", "[containers.\"101\"]\r\nversion=\"host\"\r\n", "\"\" = 1", "[containers]\n101 = {version = \"1\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseTOML("f.toml", data)
		checkMistakes(t, err, strings.Count(string(data), "\n")+1)
		if err == nil {
			for _, s := range file.global {
				require.NotZero(t, s.line)
			}
			_, err := (&Config{node: file}).For(101)
			checkMistakes(t, err, strings.Count(string(data), "\n")+1)
		}
	})
}

// FuzzLocate: the line found for a key of a file that parses is one on which its name stands.
func FuzzLocate(f *testing.F) {
	seeds(f, "testdata/mistakes-*.toml")
	seeds(f, "../../packaging/config.toml")
	f.Add([]byte("x = \"\"\"\n\\\"\"\"\"\"\"\ny = 1\n[z]\na = [\n1,\n]\nb = ''''a'''''\nc = {d = 1}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := locate(data) // must end, whatever it gets
		tree := map[string]any{}
		meta, err := toml.Decode(string(data), &tree)
		if err != nil || strings.ContainsAny(string(data), "\"'{\\") { // names in quotes, or in inline tables
			return
		}
		text := strings.Split(string(data), "\n")
		for _, key := range meta.Keys() {
			line := lines[strings.Join(key, ".")]
			require.NotZero(t, line, "%q", key)
			require.Contains(t, text[line-1], key[len(key)-1])
		}
	})
}

// FuzzPhoenix does for both files of Phoenix what FuzzTOML does for ours.
func FuzzPhoenix(f *testing.F) {
	seeds(f, "testdata/mistakes-*.json")
	seeds(f, "../../contrib/phoenix/*.json")
	f.Add([]byte(`{"lxc_configs":{"100":{"clone_from_ctid":101,"features":["nvidia"]},"101":{"clone_from_ctid":100.0}}}`))
	f.Add([]byte(`{"lxc_configs":{"100":{"clone_from_ctid":1e300,"features":[]}},"nvidia_driver":{"install":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &phoenix.Phoenix{}
		lines := strings.Count(string(data), "\n") + 1
		var m Mistakes
		for _, wrong := range append(p.ReadLXCConfigs("/p/etc/lxc.json", data, checkPhoenix), p.ReadHypervisorConfig("/p/etc/hv.json", data, checkPhoenix)...) {
			m = append(m, Mistake(wrong))
		}
		checkMistakes(t, m.plain(), lines)
		if len(m) == 0 {
			c := &Config{phoenix: p}
			checkMistakes(t, c.Check(), lines)
			s, err := c.For(100)
			checkMistakes(t, err, lines)
			text, err := json.Marshal(s)
			require.NoError(t, err)
			var back Settings
			require.NoError(t, json.Unmarshal(text, &back))
		}
	})
}

func checkMistakes(t *testing.T, err error, lines int) {
	t.Helper()
	if err == nil {
		return
	}
	var m Mistakes
	require.True(t, errors.As(err, &m) && len(m) > 0)
	for _, one := range m {
		require.NotEmpty(t, one.What)
		require.LessOrEqual(t, one.Line, lines)
		require.NotRegexp(t, `[\x00-\x1f\x7f]`, one.String(), "one mistake, one line")
	}
}

// BenchmarkLoad is the cost of the configuration at each start of a container:
// the shipped file with a few settings, and Phoenix's files for 20 containers.
func BenchmarkLoad(b *testing.B) {
	shipped, err := os.ReadFile("../../packaging/config.toml")
	require.NoError(b, err)
	var many strings.Builder
	many.WriteString(`{"nvidia_driver_version":"580.76.05","lxc_configs":{"900":{"gpu_assignment":"none"}`)
	for i := range 20 {
		many.WriteString(`,"` + string(rune('1'+i/10)) + "0" + string(rune('0'+i%10)) + `":{"name":"x","memory_mb":2048,"storage_size_gb":16,"gpu_assignment":"0, 1","unprivileged":true,
			"clone_from_ctid":"900","features":["nvidia"],"lxc_options":["lxc.apparmor.profile=unconfined"],"network_config":{"name":"eth0","bridge":"vmbr0","ip":"10.0.0.2/24","gw":"10.0.0.1"},"apparmor_profile":"unconfined","template_snapshot_name":"final-form"}`)
	}
	many.WriteString("}}")
	plain := string(shipped) + "\n[driver]\nversion = \"580.76.05\"\n[cuda]\ntoolkit = \"12.8\"\n[containers.101]\ngpus = \"0,1\"\n[containers.102]\nenabled = false\n"
	ph := "[phoenix]\nlxc_configs = \"DIR/etc/lxc.json\"\nhypervisor_config = \"DIR/etc/hv.json\"\n"
	for _, c := range []struct {
		name  string
		files map[string]string
	}{
		{"none", nil},
		{"shipped", map[string]string{"config.toml": string(shipped)}},
		{"typical", map[string]string{"config.toml": plain}},
		{"phoenix", map[string]string{"config.toml": plain + ph, "etc/lxc.json": many.String(), "etc/hv.json": example(b, "phoenix_hypervisor_config.json")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			dir := write(b, c.files)
			b.ReportAllocs()
			for b.Loop() {
				conf, err := load(dir)
				if err == nil {
					_, err = conf.For(101)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFor500 is what `status` pays for the settings of 500 containers.
func BenchmarkFor500(b *testing.B) {
	var text strings.Builder
	for i := range 500 {
		text.WriteString("[containers." + string(rune('1'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + "]\ngpus = \"0\"\ntoolkit = \"12.8\"\n")
	}
	dir := write(b, map[string]string{"config.toml": text.String()})
	for b.Loop() {
		conf, err := load(dir)
		require.NoError(b, err)
		for _, vmid := range conf.Containers() {
			_, err = conf.For(vmid)
			require.NoError(b, err)
		}
	}
}
