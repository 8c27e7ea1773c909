package hook_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// rewrite changes the rig's configuration, which must hold the old text.
func (n *node) rewrite(old, now string) {
	n.t.Helper()
	file := n.Path("config.toml")
	text, err := os.ReadFile(file)
	require.NoError(n.t, err)
	require.Contains(n.t, string(text), old)
	require.NoError(n.t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, now)), 0o644))
}

func TestTwoNodesWithOneCacheFolderFetchOnce(t *testing.T) {
	shared := t.TempDir()
	var guests []*guest
	for range 2 {
		n := newNode(t, newer)
		n.rewrite(n.Cache(), shared)
		n.Mirror.Rate = 5 << 20 // slow enough for both to meet
		guests = append(guests, n.start(lab.Spec{VMID: 101}))
	}
	var both sync.WaitGroup
	said := make([]heard, len(guests))
	for i, g := range guests {
		both.Go(func() { said[i] = g.node.asProxmox(101, "post-start") })
	}
	both.Wait()
	gets := 0
	for i, g := range guests {
		require.Zero(t, said[i].code, said[i].stderr)
		g.holds(newer)
		gets += g.node.runFileGets(newer)
	}
	require.Equal(t, 1, gets)
	require.Contains(t, said[0].stderr+said[1].stderr, "held by pid", "who waits says for whom")
	left, err := filepath.Glob(filepath.Join(shared, "*.part*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// proxy is a tunnel that leads every CONNECT to one server, and counts them.
type proxy struct {
	*httptest.Server
	calls atomic.Int32
	asked atomic.Value // of the last
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	p := &proxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		p.asked.Store(r.Method + " " + r.Host)
		server, err := net.Dial("tcp", u.Host)
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, "no tunnel", http.StatusBadGateway)
			return
		}
		defer server.Close()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(server, client) }()
		_, _ = io.Copy(client, server) // either end of the tunnel ends it
	}))
	t.Cleanup(p.Close)
	return p
}

func TestProxyOfTheDatacenterIsUsedUnlessTheEnvironmentNamesOne(t *testing.T) {
	for name, c := range map[string]struct{ inEnvironment bool }{
		"datacenter.cfg":  {false},
		"the environment": {true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, newer)
			mirror, err := url.Parse(n.Mirror.URL())
			require.NoError(t, err)
			// A name that the mirror's certificate bears. Only a proxy can reach it:
			// for this machine's own addresses none is used.
			n.rewrite("https://"+mirror.Host, "https://example.com")
			ofCluster, ofEnvironment := newProxy(t, n.Mirror.URL()), newProxy(t, n.Mirror.URL())
			require.NoError(t, os.MkdirAll(n.Path("host/etc/pve"), 0o755))
			require.NoError(t, os.WriteFile(n.Path("host/etc/pve/datacenter.cfg"), []byte("keyboard: de\nhttp_proxy: "+ofCluster.URL+"\n"), 0o644))
			used, unused := ofCluster, ofEnvironment
			if c.inEnvironment {
				n.Env = append(n.Env, "https_proxy="+ofEnvironment.URL)
				used, unused = ofEnvironment, ofCluster
			}
			g := n.start(lab.Spec{})
			g.postStart(0)
			g.holds(newer)
			require.Equal(t, 1, n.runFileGets(newer))
			require.Positive(t, used.calls.Load())
			require.Equal(t, "CONNECT example.com:443", used.asked.Load())
			require.Zero(t, unused.calls.Load())
		})
	}
}
