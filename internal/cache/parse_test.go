package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
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

func FuzzMeta(f *testing.F) {
	m := Meta{URL: "https://h/a.run", Size: 9, SHA256: sumOf(nil), Verified: bySum, At: time.Unix(1, 0).UTC(), Files: 2, Unpacked: 3,
		Inode: 4, Changed: 5}
	whole, err := json.Marshal(m)
	require.NoError(f, err)
	for _, s := range []string{string(whole), string(whole[:len(whole)-1]), string(whole) + "x", "", "null", "{}", "[]", `{"size":-1}`, `{"at":"never"}`,
		strings.Replace(string(whole), `"size":9`, `"size":1e99`, 1), strings.Replace(string(whole), sumOf(nil), "../..", 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMeta(text)
		if err != nil {
			require.Zero(t, m)
			return
		}
		require.True(t, isSHA256(m.SHA256))
		require.Positive(t, m.Size)
		require.NotEmpty(t, m.Verified)
		// What is written anew is read as the same.
		again, err := json.Marshal(m)
		require.NoError(t, err)
		read, err := parseMeta(again)
		require.NoError(t, err)
		require.True(t, m.At.Equal(read.At))
		m.At, read.At = time.Time{}, time.Time{}
		require.Equal(t, m, read)
		require.False(t, m.whole(t.TempDir()), "no metadata makes a tree of a folder that is none")
	})
}

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{`{"url":"x","etag":"\"v1\"","size":9}`, `{"last_modified":"` + monday + `","size":9}`, `{"etag":"W/\"v1\"","last_modified":"x","size":9}`,
		`{"etag":"a\u0000b\r\nHost: c","size":9}`, `{"etag":"x","size":-1}`, "", "null", "[]"} {
		f.Add([]byte(s))
	}
	nowhere := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe }}
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseOrigin(text)
		if err != nil {
			require.Zero(t, o)
			return
		}
		require.Positive(t, o.Size)
		require.False(t, strings.HasPrefix(o.validator(), "W/") && o.ETag != "", "RFC 9110, 13.1.5")
		r, err := http.NewRequest(http.MethodGet, "http://example.invalid", nil)
		require.NoError(t, err)
		r.Header.Set("If-Range", o.validator())
		_, err = nowhere.RoundTrip(r)
		require.ErrorIs(t, err, io.ErrClosedPipe, "the request itself is a good one")
	})
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

func TestProgressIsOneLineOnATerminal(t *testing.T) {
	c, said := newCache(t)
	var tty bytes.Buffer
	c.Terminal = &tty
	m := c.newMeter("x.run", 394e6, 0)
	for range 2 {
		m.start, m.said = time.Now().Add(-2*time.Second), time.Now().Add(-time.Second)
		m.add(120e6)
		m.add(121e6) // too soon
	}
	m.end()
	shown := "\r\x1b[Kfetching x.run: 120 of 394 MB, 60 MB/s"
	require.Equal(t, shown+shown+"\r\x1b[K", tty.String())
	require.Empty(t, said.text())
}
