package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

var runName = FileName(v1, "x86_64")

// fault is an answer to the n-th request for a run file or its checksum.
type fault func(w http.ResponseWriter, r *http.Request, name string, n int) bool

// onRun makes a fault of an answer to requests for the run file itself.
func onRun(answer func(w http.ResponseWriter, r *http.Request, n int) bool) fault {
	return func(w http.ResponseWriter, r *http.Request, name string, n int) bool {
		return name == runName && answer(w, r, n)
	}
}

func status(code int) fault {
	return onRun(func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(code); return true })
}

func always(b []byte) fault {
	return onRun(func(w http.ResponseWriter, _ *http.Request, _ int) bool { _, _ = w.Write(b); return true })
}

// announced is always with a Content-Length.
func announced(b []byte) fault {
	return onRun(func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b)
		return true
	})
}

// both offers another file with the checksum that is right for it.
func both(b []byte) fault {
	return func(w http.ResponseWriter, r *http.Request, name string, n int) bool {
		return announced(b)(w, r, name, n) || sumIs(sumOf(b)+"  "+runName+"\n")(w, r, name, n)
	}
}

// relabel makes of v1's run file one that says it is of another version, and is sound as such.
func relabel(b []byte, v version.Driver) []byte {
	b = bytes.ReplaceAll(b, []byte(v1), []byte(v))
	top := bytes.SplitAfterN(b, []byte("\n"), 4)
	return slices.Concat(top[0], top[1], fmt.Appendf(nil, "MD5=%x\n", md5.Sum(top[3])), top[3])
}

func sumIs(text string) fault {
	return func(w http.ResponseWriter, _ *http.Request, name string, _ int) bool {
		if name == runName+".sha256sum" {
			fmt.Fprint(w, text)
			return true
		}
		return false
	}
}

// Each fault must end in an error that names URL and fault, leave nothing in the
// cache, and not keep the next URL from being used.
func TestBadServersAreNamedAndTheNextURLHelps(t *testing.T) {
	good := sample(t, v1)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1000] ^= 1
	padded := append(bytes.Clone(good), make([]byte, 5000)...)
	relabelled := relabel(good, "580.163.01")
	require.Len(t, relabelled, len(good))
	page := []byte("<!DOCTYPE html><html><body>Please sign in</body></html>")
	for name, c := range map[string]struct {
		fault fault
		says  string
	}{
		"missing":                     {status(404), "404 Not Found"},
		"forbidden":                   {status(403), "403 Forbidden"},
		"gone":                        {status(410), "410 Gone"},
		"always failing":              {status(503), "503 Service Unavailable"},
		"checksum failing":            {func(w http.ResponseWriter, _ *http.Request, _ string, _ int) bool { w.WriteHeader(500); return true }, runName + "?...: its .sha256sum: the server answered 500"},
		"empty":                       {always(nil), "empty"},
		"web page":                    {always(page), "web page"},
		"flipped byte":                {always(flipped), "sha256 is|payload is broken after "}, // which it is depends on the byte
		"truncated":                   {always(good[:len(good)-5000]), "payload ends after "},
		"announced and truncated":     {announced(good[:len(good)-5000]), "payload ends after "},
		"zeros behind":                {always(padded), "sha256 is"},
		"announced with zeros behind": {announced(padded), "sha256 is"},
		"other version":               {always(sample(t, v2)), "the file is driver version 580.142, wanted 550.163.01"},
		"other version in a file of the same size": {both(relabelled), "the file is driver version 580.163.01, wanted 550.163.01"},
		"other checksum":     {sumIs(sumOf(nil) + "  " + runName + "\n"), "sha256 is"},
		"checksum of other":  {sumIs(sumOf(good) + "  NVIDIA-Linux-x86_64-1.run\n"), `it is for "NVIDIA-Linux-x86_64-1.run"`},
		"checksum is a page": {sumIs(string(page)), "not the output of sha256sum"},
		"checksum is empty":  {sumIs(""), "it is empty"},
		"redirect loop": {onRun(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}), "redirect refused: more than 5"},
		"redirect to http": {onRun(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/x?token=secret", http.StatusFound)
			return true
		}), "redirect refused: it leads from https to http://127.0.0.1:1/x"},
		"more announced than sent": {onRun(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			from := 0
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			cut(w, r, good, `"x"`, len(good)-5000-from)
			return true
		}), "the connection was cut"},
		"huge announcement": {onRun(func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.Header().Set("Content-Length", "1099511627776")
			w.WriteHeader(200)
			return true
		}), "more than any run file has"},
		"never answers": {onRun(func(_ http.ResponseWriter, r *http.Request, _ int) bool { <-r.Context().Done(); return true }), "timeout"},
		"drops at once": {onRun(func(http.ResponseWriter, *http.Request, int) bool { panic(http.ErrAbortHandler) }), "EOF"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			cache, said := newCache(t)
			if c.says == "timeout" {
				cache.pace.answer = 100 * time.Millisecond
			}
			bad := serve(t, true).offer(v1, good)
			bad.fault = c.fault
			secret := strings.Replace(bad.template(), "https://", "https://user:secret@", 1) + "?token=secret"

			_, err := cache.Get(testContext(t), want(v1, secret))
			require.ErrorContains(t, err, bad.URL+"/550.163.01/"+runName)
			require.True(t, slices.ContainsFunc(strings.Split(c.says, "|"), func(s string) bool { return strings.Contains(err.Error(), s) }), "%v: %s", err, c.says)
			require.Contains(t, hint.Of(err), "pve-nvidia-hook cache add FILE", "the way by hand is always named")
			require.NotContains(t, err.Error()+said.text()+hint.Of(err), "secret")
			if slices.Contains([]string{"timeout", "EOF", "the connection was cut"}, c.says) {
				// What came may be gone on with.
				require.NoFileExists(t, cache.paths(v1, "x86_64").run)
			} else {
				requireClean(t, cache)
			}

			if c.says == "timeout" { // the next one may need its time on a busy machine
				cache.pace.answer = 0
				bad.mu.Lock()
				bad.fault = status(504)
				bad.mu.Unlock()
			}
			next := serve(t, true).offer(v1, good)
			e := get(t, cache, want(v1, secret, next.template()))
			require.True(t, e.Fetched)
			require.Contains(t, e.Meta.URL, next.URL)
			require.Contains(t, said.text(), "trying the next URL")
			requireClean(t, cache, v1)
		})
	}
}

// No time is measured here: the server itself says when a window of the speed ends.
func TestSlowServerIsGivenUpForTheNextURL(t *testing.T) {
	good := sample(t, v1)
	for name, first := range map[string]int{"stalls after a part": 2000, "drips": 1} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c, said := newCache(t)
			ticks := make(chan time.Time)
			c.pace.ticks = ticks
			bad := serve(t, true).offer(v1, good)
			var starts []string
			bad.fault = onRun(func(w http.ResponseWriter, r *http.Request, n int) bool {
				from := 0
				_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				starts = append(starts, r.Header.Get("Range"))
				cut := beginning(w, r, good, `"v1"`)
				_, _ = w.Write(cut[:first])
				w.(http.Flusher).Flush()
				for onDisk := c.paths(v1, "x86_64").part; r.Context().Err() == nil; {
					if st, err := os.Stat(onDisk); err == nil && st.Size() >= int64(from+first) {
						break
					}
					time.Sleep(time.Millisecond)
				}
				select {
				case ticks <- time.Now():
				case <-r.Context().Done():
				}
				for i := first; name == "drips" && r.Context().Err() == nil; i++ {
					_, _ = w.Write(cut[i : i+1])
					w.(http.Flusher).Flush()
					time.Sleep(time.Millisecond)
				}
				<-r.Context().Done()
				return true
			})
			next := serve(t, true).offer(v1, good)
			e := get(t, c, want(v1, bad.template(), next.template()))
			require.Contains(t, e.Meta.URL, next.URL)
			require.Contains(t, said.text(), "the server sends less than 100 kB/s; trying the next URL")
			require.Len(t, starts, 3, "another connection may be quicker")
			require.NotEmpty(t, starts[2], "which goes on where the one before ended")
			requireClean(t, c, v1)
		})
	}
}

func TestDownloadEndsAtItsLimitAndIsResumed(t *testing.T) {
	b := sample(t, v1)
	c, said := newCache(t)
	s := serve(t, true).offer(v1, b)
	var good atomic.Bool
	s.fault = onRun(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if good.Load() {
			return false
		}
		_, _ = w.Write(beginning(w, r, b, `"v1"`)[:len(b)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	// However long the first half takes: what there is then is gone on with.
	c.DownloadLimit = 500 * time.Millisecond
	_, err := c.Get(testContext(t), want(v1, s.template(), s.template()))
	require.ErrorContains(t, err, "the download took longer than 500ms")
	require.NotContains(t, err.Error(), ";\n", "no other URL is tried")
	require.Contains(t, hint.Of(err), "the next start goes on where this one ended")
	c.DownloadLimit = 0
	good.Store(true)
	require.True(t, get(t, c, want(v1, s.template())).Fetched, said.text())
	requireClean(t, c, v1)
}

func TestOfflineHintNamesCacheAddOnly(t *testing.T) {
	c, _ := newCache(t)
	_, err := c.Get(testContext(t), want(v1))
	require.ErrorContains(t, err, "no URL is configured")
	require.Equal(t, "download it elsewhere, with its .sha256sum, and: pve-nvidia-hook cache add FILE", hint.Of(err))

	_, err = c.Get(testContext(t), want(v1, serve(t, true).template()))
	require.Contains(t, hint.Of(err), "correct driver.urls", "a URL that has no file may be wrong")
}

func TestHostilePayloadsAreRefused(t *testing.T) {
	extra := func(h tar.Header) fakerun.Spec { return fakerun.Spec{Extra: []tar.Header{h}} }
	for name, c := range map[string]struct {
		s    fakerun.Spec
		says string
	}{
		"climbs":       {extra(tar.Header{Name: "../escaped", Typeflag: tar.TypeReg, Size: 1}), `"../escaped": a name that leads out of its folder`},
		"absolute":     {extra(tar.Header{Name: "/tmp/escaped", Typeflag: tar.TypeReg, Size: 1}), `the absolute name "/tmp/escaped"`},
		"device":       {extra(tar.Header{Name: "./null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), `"null" of tar type '3'`},
		"link out":     {extra(tar.Header{Name: "./out", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), `"out" of tar type '2'`},
		"gzip bomb":    {fakerun.Spec{Compression: "gzip", Tar: bomb}, `"zeros" of 1099511 MB: more than 4294 MB`},
		"zstd bomb":    {fakerun.Spec{Tar: bomb}, `"zeros" of 1099511 MB: more than 4294 MB`},
		"sparse claim": {fakerun.Spec{Tar: sparse}, `"big" of tar type 'S'`},
		"sparse, pax":  {fakerun.Spec{Tar: sparsePAX}, `the sparse file "big"`},
		"no tar":       {fakerun.Spec{Tar: noTar}, "payload is broken"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			cache, _ := newCache(t)
			c.s.Version, c.s.NoDecompressor = string(v1), true
			at, err := fakerun.Write(t.TempDir(), c.s)
			require.NoError(t, err)
			b, err := os.ReadFile(at)
			require.NoError(t, err)
			srv := serve(t, true).offer(v1, b)
			_, err = cache.Get(testContext(t), want(v1, srv.template()))
			require.ErrorContains(t, err, srv.URL+"/550.163.01/"+runName+": ")
			require.ErrorContains(t, err, c.says)
			require.NoFileExists(t, cache.Dir+"/escaped")
			requireClean(t, cache)
		})
	}
}

func noTar(w io.Writer) error {
	_, err := io.WriteString(w, strings.Repeat("no tar", 999))
	return err
}

// bomb is a tar of one file that says it has 1 TB, and begins to.
func bomb(w io.Writer) error {
	_, err := w.Write(append(header("zeros", tar.TypeReg, 1<<40), make([]byte, 40<<20)...))
	return err
}

// sparse is a tar of one sparse file in GNU's old format, of no bytes that stand for 1 TB.
func sparse(w io.Writer) error {
	b := header("big", tar.TypeReg, 0)
	copy(b[257:], "ustar  \x00")
	b[156], b[483] = tar.TypeGNUSparse, 0x80 // a number in base 256
	binary.BigEndian.PutUint64(b[487:], 1<<40)
	seal(b)
	_, err := w.Write(append(b, make([]byte, 1024)...))
	return err
}

// sparsePAX is the same in a newer format, which archive/tar does not write.
func sparsePAX(w io.Writer) error {
	text := ""
	for _, record := range []string{"major=0", "minor=1", "size=1099511627776", "numblocks=1", "map=0,512"} {
		record = " GNU.sparse." + record + "\n"
		text += fmt.Sprint(len(record)+2) + record
	}
	b := append(header("x", tar.TypeXHeader, int64(len(text))), text...)
	b = append(b, make([]byte, 1024-len(b))...)
	b = append(append(b, header("big", tar.TypeReg, 512)...), make([]byte, 512+1024)...)
	_, err := w.Write(b)
	return err
}

// header is a tar header (tar(5)), in which anything may stand.
func header(name string, kind byte, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[257:], "ustar\x0000")
	b[124], b[156] = 0x80, kind
	binary.BigEndian.PutUint64(b[128:], uint64(size))
	seal(b)
	return b
}

// seal writes the checksum of a tar header.
func seal(b []byte) {
	sum := 0
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func TestFailingServerIsAskedAgain(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	s.fault = func(w http.ResponseWriter, r *http.Request, _ string, n int) bool {
		if n < 3 {
			w.Header().Set("Retry-After", "3600") // not heeded beyond the longest pause
			w.WriteHeader([]int{0, 500, 429}[n])
		}
		return n < 3
	}
	require.True(t, get(t, c, want(v1, s.template())).Fetched)
	require.Equal(t, 3, s.count(runName))
}

// unresolvable is a dialer in whose world no name is resolved.
func unresolvable(why net.DNSError, asked *[]string) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		failed := why
		failed.Name, _, _ = net.SplitHostPort(address)
		if asked != nil {
			*asked = append(*asked, failed.Name)
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &failed}
	}
}

func TestHostThatDoesNotExistIsAskedForOnce(t *testing.T) {
	for _, w := range []Want{{}, {SHA256: strings.Repeat("0", 64)}, {RequireChecksum: true}} {
		c, said := newCache(t)
		var asked []string
		c.dial = unresolvable(net.DNSError{Err: "no such host", IsNotFound: true}, &asked)
		w.Version, w.Arch = v1, "x86_64"
		w.URLs = []string{"https://first.invalid/a/{file}", "https://first.invalid/b/{file}"}
		_, err := c.Get(testContext(t), w)
		require.EqualError(t, err, "fetch "+runName+": cannot reach first.invalid: no such host")
		require.Contains(t, hint.Of(err), "check this node's network, its name server and its proxy ")
		require.Contains(t, hint.Of(err), "pve-nvidia-hook cache add FILE")
		require.Equal(t, []string{"first.invalid"}, asked)
		require.Empty(t, said.text())

		w.URLs = append(w.URLs, "https://second.invalid/{file}")
		_, err = c.Get(testContext(t), w)
		require.EqualError(t, err, "fetch "+runName+": cannot reach first.invalid: no such host;\ncannot reach second.invalid: no such host")
		require.Equal(t, []string{"first.invalid", "first.invalid", "second.invalid"}, asked)
	}
}

func TestNameServerThatFailsIsAskedAgain(t *testing.T) {
	for _, why := range []net.DNSError{
		{Err: "i/o timeout", IsTimeout: true, IsTemporary: true},
		{Err: "server misbehaving", IsTemporary: true}, // SERVFAIL
	} {
		c, said := newCache(t)
		var asked []string
		c.dial = unresolvable(why, &asked)
		_, err := c.Get(testContext(t), want(v1, "https://first.invalid/{file}", "https://first.invalid/other/{file}"))
		require.EqualError(t, err, "fetch "+runName+": cannot resolve first.invalid: "+why.Err)
		require.Contains(t, hint.Of(err), NetworkHint)
		require.Len(t, asked, 4, "not once more for each URL")
		require.Equal(t, 1, strings.Count(said.text(), "retrying"), said.text())
	}
}

func TestWhatCannotBeReachedIsSaidInShort(t *testing.T) {
	c, said := newCache(t)
	long := strings.Repeat("folder/", 5) + "{file}"
	c.dial = unresolvable(net.DNSError{Err: "read udp 192.0.2.7:53612->192.0.2.1:53: i/o timeout", IsTimeout: true, IsTemporary: true}, nil)
	_, err := c.Get(testContext(t), want(v1, "https://first.invalid/"+long, "https://second.invalid/"+long))
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 2, "one a URL")
	for i, host := range []string{"first.invalid", "second.invalid"} {
		require.Contains(t, lines[i], "cannot resolve "+host+": i/o timeout")
		require.NotContains(t, lines[i], "https://")
		require.Less(t, len(lines[i]), 250)
	}
	require.Regexp(t, `info retrying https://first.invalid/.*\.run\.sha256sum: cannot resolve first.invalid: i/o timeout`, said.text())

	c, said = newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	s.fault = status(503)
	_, err = c.Get(testContext(t), want(v1, s.template()))
	require.Error(t, err)
	require.Contains(t, said.text(), runName+": the server answered 503 Service Unavailable")
}

func TestTransferCutAtEachTenthGoesOn(t *testing.T) {
	b := sample(t, v1)
	for name, tag := range map[string]string{"resumed by its tag": `"v1"`, "resumed by its date": monday, "server cannot resume": ""} {
		t.Run(name, func(t *testing.T) {
			c, said := newCache(t)
			s := serve(t, true).offer(v1, b)
			s.tag = tag
			var starts []string
			s.fault = onRun(func(w http.ResponseWriter, r *http.Request, n int) bool {
				starts = append(starts, r.Header.Get("Range"))
				if tag == "" && n > 2 {
					return false
				}
				cut(w, r, b, tag, len(b)/10+1)
				return true
			})
			e := get(t, c, want(v1, s.template()))
			got, err := os.ReadFile(e.RunFile)
			require.NoError(t, err)
			require.True(t, bytes.Equal(b, got), said.text())
			requireClean(t, c, v1)
			if tag == "" {
				require.Equal(t, []string{"", "", ""}, starts, "begun again from the start")
				return
			}
			require.Len(t, starts, 10, said.text())
			require.Equal(t, fmt.Sprintf("bytes=%d-", len(b)/10+1), starts[1])
		})
	}
}

// Two dates as they stand in Last-Modified.
const monday, tuesday = "Mon, 02 Jun 2025 08:00:00 GMT", "Tue, 03 Jun 2025 08:00:00 GMT"

func TestFileThatChangesBetweenPartsIsFetchedWhole(t *testing.T) {
	b := sample(t, v1)
	other := bytes.Clone(b)
	other[len(other)/2] ^= 1
	for name, c := range map[string]struct {
		before, now string
		heeds       bool // the server looks at If-Range
	}{
		"by its tag":                   {`"old"`, `"v1"`, true},
		"by its tag in the part only":  {`"old"`, `"v1"`, false},
		"by its date":                  {monday, tuesday, true},
		"by its date in the part only": {monday, tuesday, false},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			cache, said := newCache(t)
			s := serve(t, true).offer(v1, b)
			var ranges []string
			s.fault = onRun(func(w http.ResponseWriter, r *http.Request, n int) bool {
				ranges = append(ranges, r.Header.Get("Range"))
				if n == 1 {
					cut(w, r, other, c.before, len(other)*2/3)
				}
				if !c.heeds {
					r.Header.Set("If-Range", c.now)
				}
				cut(w, r, b, c.now, len(b))
				return true
			})
			e := get(t, cache, want(v1, s.template()))
			require.Equal(t, sumOf(b), e.Meta.SHA256)
			require.Contains(t, said.text(), "changed")
			starts := []string{"", fmt.Sprintf("bytes=%d-", len(b)*2/3), ""}
			if c.heeds {
				starts = starts[:2] // and got it whole
			}
			require.Equal(t, starts, ranges)
			requireClean(t, cache, v1)
		})
	}
}

// leave lays down what a broken-off run leaves.
func leave(t *testing.T, c *Cache, s *server, o origin, part []byte) {
	t.Helper()
	require.NoError(t, CheckDir(c.Dir))
	p := c.paths(v1, "x86_64")
	u, err := fill(s.template(), want(v1))
	require.NoError(t, err)
	if o.URL == "" {
		o.URL = key(u)
	}
	require.NoError(t, writeJSON(p.origin, o))
	require.NoError(t, os.WriteFile(p.part, part, 0o644))
}

func TestLeftoverPartIsResumed(t *testing.T) {
	b := sample(t, v1)
	half := len(b) / 2
	for name, c := range map[string]struct {
		o      origin
		part   []byte
		ranges []string
	}{
		"by its tag":           {origin{ETag: `"v1"`, Size: int64(len(b))}, b[:half], []string{fmt.Sprintf("bytes=%d-", half)}},
		"whole already":        {origin{ETag: `"v1"`, Size: int64(len(b))}, b, nil},
		"of a changed file":    {origin{ETag: `"v0"`, Size: int64(len(b))}, b[:half], []string{fmt.Sprintf("bytes=%d-", half)}}, // the answer is the whole
		"by its date":          {origin{LastModified: monday, Size: int64(len(b))}, b[:half], []string{fmt.Sprintf("bytes=%d-", half)}},
		"of another date":      {origin{LastModified: tuesday, Size: int64(len(b))}, b[:half], []string{fmt.Sprintf("bytes=%d-", half)}},
		"of another URL":       {origin{URL: "x", ETag: `"v1"`, Size: int64(len(b))}, b[:half], []string{""}},
		"with a weak tag":      {origin{ETag: `W/"v1"`, Size: int64(len(b))}, b[:half], []string{""}},
		"with a torn tag":      {origin{ETag: "\"v\n1\"", Size: int64(len(b))}, b[:half], []string{""}},
		"of no known origin":   {origin{Size: int64(len(b))}, b[:half], []string{""}},
		"longer than the file": {origin{ETag: `"v1"`, Size: int64(half)}, b, []string{""}},
		"with holes after a loss of power": {origin{ETag: `"v1"`, Size: int64(len(b))}, append(bytes.Clone(b[:1000]), make([]byte, half)...),
			[]string{fmt.Sprintf("bytes=%d-", half+1000), ""}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			cache, said := newCache(t)
			s := serve(t, true).offer(v1, b)
			if c.o.LastModified != "" {
				var err error
				s.tag = ""
				s.date, err = http.ParseTime(monday)
				require.NoError(t, err)
			}
			leave(t, cache, s, c.o, c.part)
			var ranges []string
			s.fault = onRun(func(_ http.ResponseWriter, r *http.Request, _ int) bool {
				ranges = append(ranges, r.Header.Get("Range"))
				return false
			})
			e := get(t, cache, want(v1, s.template()))
			require.Equal(t, sumOf(b), e.Meta.SHA256)
			require.Equal(t, c.ranges, ranges, said.text())
			requireClean(t, cache, v1)
		})
	}
}

// What a transfer leaves becomes the run file, so it must be nobody else's.
func TestPartOfOthersIsNotResumed(t *testing.T) {
	b := sample(t, v1)
	for name, spoil := range map[string]func(p paths) error{
		"owner":           func(p paths) error { return os.Chown(p.part, 1000, 0) },
		"mode":            func(p paths) error { return os.Chmod(p.part, 0o666) },
		"link":            func(p paths) error { return firstError(os.Rename(p.part, p.part+"2"), os.Symlink(p.part+"2", p.part)) },
		"owner of origin": func(p paths) error { return os.Chown(p.origin, 1000, 0) },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c, said := newCache(t)
			s := serve(t, true).offer(v1, b)
			leave(t, c, s, origin{ETag: `"v1"`, Size: int64(len(b))}, b[:len(b)/2])
			require.NoError(t, spoil(c.paths(v1, "x86_64")))
			e := get(t, c, want(v1, s.template()))
			require.NotContains(t, said.text(), "resuming")
			st, err := os.Lstat(e.RunFile)
			require.NoError(t, err)
			require.NoError(t, trust.File(e.RunFile, st))
		})
	}
}

func TestCancelledTransferIsResumedLater(t *testing.T) {
	b := sample(t, v1)
	c, said := newCache(t)
	s := serve(t, true).offer(v1, b)
	ctx, cancel := context.WithCancel(testContext(t))
	s.fault = onRun(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n == 1 {
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			for r.Context().Err() == nil { // until it is on the client's disk
				if st, err := os.Stat(c.paths(v1, "x86_64").part); err == nil && st.Size() >= int64(len(b)/2) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
			<-r.Context().Done()
		}
		return n == 1
	})
	_, err := c.Get(ctx, want(v1, s.template())) // the server sends no more, so the cancel ends it
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, c.paths(v1, "x86_64").newTree)
	get(t, c, want(v1, s.template()))
	require.Contains(t, said.text(), "resuming")
}

func TestChecksumRules(t *testing.T) {
	b := sample(t, v1)
	none := func(s *server) { delete(s.files, runName+".sha256sum") }
	t.Run("none published", func(t *testing.T) {
		c, said := newCache(t)
		s := serve(t, true).offer(v1, b)
		none(s)
		e := get(t, c, want(v1, s.template()))
		require.Equal(t, byHeader, e.Meta.Verified)
		require.Contains(t, said.text(), "no checksum is published")
		e.Release()

		w := want(v1, s.template())
		w.RequireChecksum = true
		_, err := c.Get(testContext(t), w)
		require.ErrorContains(t, err, "a checksum is required and none was found")
		s.offer(v1, b)
		require.Equal(t, bySum, get(t, c, w).Meta.Verified, "published since")
		require.Equal(t, 1, s.count(runName))
	})
	t.Run("none published but required", func(t *testing.T) {
		c, _ := newCache(t)
		s := serve(t, true).offer(v1, b)
		none(s)
		w := want(v1, s.template())
		w.RequireChecksum = true
		_, err := c.Get(testContext(t), w)
		require.ErrorContains(t, err, "no checksum is published there")
		require.Zero(t, s.count(runName), "nothing was downloaded")
	})
	t.Run("pinned", func(t *testing.T) {
		c, _ := newCache(t)
		s := serve(t, true).offer(v1, b)
		w := want(v1, s.template())
		w.SHA256, w.RequireChecksum = strings.ToUpper(sumOf(b)), true
		require.Equal(t, byPin, get(t, c, w).Meta.Verified)
		require.Zero(t, s.count(runName+".sha256sum"))
	})
	t.Run("pinned over http", func(t *testing.T) {
		c, _ := newCache(t)
		s := serve(t, false).offer(v1, b)
		_, err := c.Get(testContext(t), want(v1, s.template()))
		require.ErrorContains(t, err, "plain http is used only with a pinned sha256")
		require.Zero(t, s.count(runName)+s.count(runName+".sha256sum"))
		w := want(v1, s.template())
		w.SHA256 = sumOf(b)
		require.Equal(t, byPin, get(t, c, w).Meta.Verified)
	})
	t.Run("of many files", func(t *testing.T) {
		c, _ := newCache(t)
		s := serve(t, true).offer(v1, b)
		s.fault = sumIs(sumOf(nil) + "  other.run\n" + sumOf(b) + " *" + runName + "\n")
		require.Equal(t, bySum, get(t, c, want(v1, s.template())).Meta.Verified)
	})
}

func TestUnknownLengthIsNoHindrance(t *testing.T) {
	b := sample(t, v1)
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, b)
	s.fault = onRun(func(w http.ResponseWriter, _ *http.Request, n int) bool {
		w.(http.Flusher).Flush() // chunked
		_, _ = w.Write(b)
		return true
	})
	require.Equal(t, sumOf(b), get(t, c, want(v1, s.template())).Meta.SHA256)
}

func TestProxyErrorsShowNoURL(t *testing.T) {
	r, err := http.NewRequest(http.MethodGet, "https://nvidia.example/x", nil)
	require.NoError(t, err)
	for _, setting := range []string{"http://me:secret@proxy:port", "me:secret@proxy:3128", "secret", "http://"} {
		_, err := Proxy(setting)(r)
		require.ErrorContains(t, err, "not a URL such as")
		require.NotContains(t, err.Error(), "secret")
	}
	for _, host := range []string{"localhost", "127.0.0.2", "[::1]"} {
		r.URL.Host = host + ":8080"
		u, err := Proxy("http://proxy:3128")(r)
		require.NoError(t, err)
		require.Nil(t, u, host)
	}
}

func TestProxyOfTheSettingsIsUsed(t *testing.T) {
	b := sample(t, v1)
	proxy := serve(t, false).offer(v1, b)
	c, _ := newCache(t)
	c.Proxy = proxy.URL
	w := want(v1, "http://nvidia.example/{file}")
	w.SHA256 = sumOf(b)
	require.Equal(t, "http://nvidia.example/"+runName, get(t, c, w).Meta.URL)
	require.Equal(t, 1, proxy.count(runName))
}
