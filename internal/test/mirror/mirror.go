// Package mirror serves run files over https on loopback, as NVIDIA's servers
// do for the world, and counts what is asked of it.
package mirror

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// Server is a running mirror.
type Server struct {
	Dir  string // what is served
	Cert string // file with the certificate: clients trust it by SSL_CERT_FILE
	Rate int64  // bytes per second for one client; 0: unlimited

	server *httptest.Server
	mu     sync.Mutex
	gets   map[string]int
}

// Serve starts a mirror of the folder dir. It keeps its certificate in certDir.
func Serve(dir, certDir string) (*Server, error) {
	s := &Server{Dir: dir, Cert: filepath.Join(certDir, "mirror.pem"), gets: map[string]int{}}
	s.server = httptest.NewTLSServer(s)
	der := s.server.Certificate().Raw
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(s.Cert, data, 0o644); err != nil {
		s.server.Close()
		return nil, fmt.Errorf("keep the mirror's certificate: %w", err)
	}
	return s, nil
}

// URL is the template of a run file's URL on this mirror.
func (s *Server) URL() string { return s.server.URL + "/XFree86/{os_arch}/{version}/{file}" }

// Gets returns how often a file, by its base name, was asked for.
func (s *Server) Gets(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets[name]
}

// Total returns how many requests there were.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.gets {
		total += n
	}
	return total
}

// Close stops the mirror.
func (s *Server) Close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	s.mu.Lock()
	s.gets[name]++
	rate := s.Rate
	s.mu.Unlock()
	f, err := os.Open(filepath.Join(s.Dir, name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if rate > 0 {
		w = &slow{ResponseWriter: w, rate: rate, start: time.Now()}
	}
	http.ServeContent(w, r, name, info.ModTime(), f)
}

// slow lets no more than rate bytes a second through.
type slow struct {
	http.ResponseWriter
	rate  int64
	sent  int64
	start time.Time
}

// Write implements io.Writer.
func (s *slow) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	s.sent += int64(n)
	due := time.Duration(float64(s.sent) / float64(s.rate) * float64(time.Second))
	if ahead := due - time.Since(s.start); ahead > 0 {
		time.Sleep(ahead)
	}
	return n, err
}
