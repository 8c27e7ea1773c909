package cache

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzParseSum(f *testing.F) {
	sum := sumOf(nil)
	for _, s := range []string{"", sum, sum + "  a.run\n", sum + " *a.run", sum + "  ./x/a.run\r\n", "\\" + sum + "  a\\n.run", "<html>", sum + "  b.run\n" + sum + "  a.run"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseSum(text, "a.run")
		require.Equal(t, err == nil, isSHA256(got))
		if err != nil {
			require.Less(t, len(err.Error()), 500)
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"NVIDIA-Linux-x86_64-550.163.01.run", "NVIDIA-Linux-aarch64-580.142", "NVIDIA-Linux-x86_64-580.142.run.part.json", "NVIDIA-Linux-x86_64-../x", ".lock"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if v, arch, ending, ok := parseName(name); ok {
			require.Equal(t, name, base(v, arch)+ending)
			require.Equal(t, name, filepath.Base(name), "never leads out of the folder")
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "", "bytes -1-2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, h string) { _, _, _ = contentRange(h) })
}

func TestProgressIsALineEveryFewSecondsOffATerminal(t *testing.T) {
	c, said := newCache(t)
	m := c.newMeter("x.run", 394e6, 20e6)
	m.add(30e6)
	require.Empty(t, said.text(), "not at once")
	m.start, m.said = time.Now().Add(-2*time.Second), time.Now().Add(-time.Minute)
	m.add(120e6)
	m.end()
	require.Equal(t, "info fetching x.run: 120 of 394 MB, 50 MB/s", said.text())

	m = c.newMeter("x.run", 2527778, 0)
	m.last = 800_000
	require.Equal(t, "800 kB of 2.5 MB, 0.4 MB/s", m.line(800_000, 2*time.Second), "as the sizes of cache list")
}

func TestProgressIsABarOnATerminal(t *testing.T) {
	c, said := newCache(t)
	var tty bytes.Buffer
	c.Bar = &tty
	s := serve(t, true).offer(v1, sample(t, v1))
	get(t, c, want(v1, s.template()))
	require.Contains(t, tty.String(), runName)
	require.NotContains(t, said.text(), "MB/s")
	require.True(t, strings.Contains(tty.String(), "\r"))
}
