package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const (
	v1 = version.Driver("550.163.01")
	v2 = version.Driver("580.142")
)

// asProcess in the environment makes the test binary one process that gets a run file.
const asProcess = "CACHE_TEST_GET"

type job struct {
	Dir, URL string
	Version  version.Driver
	Tree     bool
}

func TestMain(m *testing.M) {
	if text := os.Getenv(asProcess); text != "" {
		os.Exit(getAsProcess(text))
	}
	os.Exit(run(m))
}

// run gives the certificate of httptest's servers to this process and its
// children as the only authority, so that https is the real thing.
func run(m *testing.M) int {
	// Every download ends with a sync. On a busy disk that takes seconds, which these
	// tests are not about.
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	dir, err := os.MkdirTemp("", "cachetest")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s := httptest.NewTLSServer(nil)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	s.Close()
	file := filepath.Join(dir, "cert.pem")
	if err := os.WriteFile(file, cert, 0o644); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", file)
	os.Setenv("SSL_CERT_DIR", dir)
	samples.dir = dir
	return m.Run()
}

func getAsProcess(text string) int {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		panic(err)
	}
	c := quick(j.Dir)
	e, err := c.Get(context.Background(), Want{Version: j.Version, Arch: "x86_64", URLs: []string{j.URL}, Tree: j.Tree})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("got", e.Fetched, e.Meta.Verified)
	e.Release()
	return 0
}

// samples are run files, each written once.
var samples struct {
	sync.Mutex
	dir  string
	made map[string][]byte
}

func sampleOf(t testing.TB, s fakerun.Spec) []byte {
	t.Helper()
	samples.Lock()
	defer samples.Unlock()
	key := s.Version + s.Arch
	if b, ok := samples.made[key]; ok {
		return b
	}
	s.NoDecompressor = true
	at, err := fakerun.Write(samples.dir, s)
	require.NoError(t, err)
	b, err := os.ReadFile(at)
	require.NoError(t, err)
	if samples.made == nil {
		samples.made = map[string][]byte{}
	}
	samples.made[key] = b
	return b
}

func sample(t testing.TB, v version.Driver) []byte {
	return sampleOf(t, fakerun.Spec{Version: string(v)})
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// quick is a cache that waits milliseconds where a real one waits seconds.
func quick(dir string) *Cache {
	return &Cache{Dir: dir, LockTimeout: 2 * time.Minute, Holder: "a test",
		pace: pace{wait: time.Millisecond, longest: 5 * time.Millisecond}}
}

func newCache(t testing.TB) (*Cache, *said) {
	t.Helper()
	c, s := quick(filepath.Join(t.TempDir(), "cache")), &said{}
	c.Log = s
	return c, s
}

// said keeps what the cache has to say.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) add(level, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, level+" "+fmt.Sprintf(format, args...))
}
func (s *said) Infof(f string, a ...any)  { s.add("info", f, a...) }
func (s *said) Warnf(f string, a ...any)  { s.add("warn", f, a...) }
func (s *said) Debugf(f string, a ...any) { s.add("debug", f, a...) }

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// server serves run files at /VERSION/NAME with their checksums, as NVIDIA's do.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte // by base name
	tag   string            // ETag of every file; "" none
	date  time.Time         // Last-Modified of every file; zero: none
	gets  map[string]int    // requests by base name

	// fault may answer the n-th request (from 1) of a file in its own way; true when it did.
	fault func(w http.ResponseWriter, r *http.Request, name string, n int) bool
}

func serve(t testing.TB, secure bool) *server {
	t.Helper()
	s := &server{files: map[string][]byte{}, gets: map[string]int{}, tag: `"v1"`}
	s.Server = httptest.NewUnstartedServer(s)
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *server) offer(v version.Driver, b []byte) *server {
	name := FileName(v, "x86_64")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = b
	s.files[name+".sha256sum"] = []byte(sumOf(b) + "  " + name + "\n")
	return s
}

func (s *server) template() string { return s.URL + "/{version}/{file}" }

func (s *server) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets[name]
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	s.mu.Lock()
	s.gets[name]++
	n, b, tag, date, fault := s.gets[name], s.files[name], s.tag, s.date, s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r, name, n) {
		return
	}
	if b == nil {
		http.NotFound(w, r)
		return
	}
	if tag != "" {
		w.Header().Set("ETag", tag)
	}
	http.ServeContent(w, r, name, date, strings.NewReader(string(b)))
}

// cut sends the first n bytes of what was asked for and drops the connection.
func cut(w http.ResponseWriter, r *http.Request, b []byte, tag string, n int) {
	b = beginning(w, r, b, tag)
	_, _ = w.Write(b[:min(n, len(b))])
	if n < len(b) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// beginning sends the headers for what was asked for of b, and returns that. The
// tag is an ETag in its quotes, or a date for Last-Modified, or "".
func beginning(w http.ResponseWriter, r *http.Request, b []byte, tag string) []byte {
	from, code := 0, http.StatusOK
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && r.Header.Get("If-Range") == tag {
		code = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
	} else {
		from = 0
	}
	switch {
	case strings.HasSuffix(tag, `"`):
		w.Header().Set("ETag", tag)
	case tag != "":
		w.Header().Set("Last-Modified", tag)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
	w.WriteHeader(code)
	return b[from:]
}

func want(v version.Driver, urls ...string) Want {
	return Want{Version: v, Arch: "x86_64", URLs: urls, Tree: true}
}

func get(t *testing.T, c *Cache, w Want) *Entry {
	t.Helper()
	e, err := c.Get(testContext(t), w)
	require.NoError(t, err)
	t.Cleanup(e.Release)
	return e
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // far more than it takes, also on a busy machine
	t.Cleanup(cancel)
	return ctx
}

// requireClean looks that nothing stays behind but lock files and whole entries.
func requireClean(t *testing.T, c *Cache, v ...version.Driver) {
	t.Helper()
	names, err := os.ReadDir(c.Dir)
	if os.IsNotExist(err) {
		return
	}
	require.NoError(t, err)
	allowed := map[string]bool{}
	for _, v := range v {
		b := base(v, "x86_64")
		for _, e := range []string{"", endRun, endMeta} {
			allowed[b+e] = true
		}
	}
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), endLock) {
			require.True(t, allowed[n.Name()], "%s was left in the cache", n.Name())
		}
	}
}
