package cuda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// fetchLimit bounds what is downloaded by the host: keyring packages and .repo
// files have a few kilobytes.
const fetchLimit = 1 << 20

// cached returns the content of a file of the shared cache, which the first who
// asks fetches from a URL. check looks at it in either case.
func (j *job) cached(ctx context.Context, from, name string, check func([]byte) error) ([]byte, error) {
	if j.w.CacheDir == "" {
		return nil, errors.New("no cache folder to keep " + name + " in")
	}
	if err := os.MkdirAll(j.w.CacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache folder: %w", err)
	}
	file := filepath.Join(j.w.CacheDir, name)
	lock := flock.New(filepath.Join(j.w.CacheDir, "."+name+".lock"))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return nil, fmt.Errorf("wait for another run to fetch %s: %w", name, cmpErr(err, ctx.Err()))
	}
	defer func() { _ = lock.Unlock() }()

	data, err := readLimited(file)
	if err == nil {
		if err := check(data); err != nil {
			return nil, hint.Wrap(fmt.Errorf("%s: %w", file, err), "delete "+file+": it is fetched again then")
		}
		return data, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = j.retry(ctx, "fetch "+from, func() (again bool, err error) {
		data, again, err = j.get(ctx, from)
		return again, err
	})
	if err != nil {
		return nil, err
	}
	if err := check(data); err != nil {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", from, err), "a proxy or login page may have answered in place of the repository")
	}
	left, _ := filepath.Glob(filepath.Join(j.w.CacheDir, "."+name+"[0-9]*"))
	for _, half := range left {
		_ = os.Remove(half) // by a run that was killed, for the lock is held
	}
	if err := renameio.WriteFile(file, data, 0o644, renameio.WithTempDir(j.w.CacheDir)); err != nil {
		return nil, fmt.Errorf("keep %s in the cache: %w", name, err)
	}
	j.log.Infof("fetched %s for all containers", name)
	return data, nil
}

func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return atMost(f)
}

func atMost(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, fetchLimit+1))
	if err == nil && len(data) > fetchLimit {
		err = fmt.Errorf("has more than %d bytes", fetchLimit)
	}
	return data, err
}

// get fetches a URL once. again says whether it is worth another try: an error
// of the network or of the server, not an answer that the file is not there.
func (j *job) get(ctx context.Context, from string) (data []byte, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, false, err
	}
	transport := &http.Transport{Proxy: j.proxy, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("more than 5 redirects")
		}
		if via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
			return fmt.Errorf("redirected from https to %s", to.URL.Scheme)
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("GET %s: %s", from, resp.Status)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return nil, true, err
		}
		return nil, false, hint.Wrap(err, "look whether NVIDIA has a repository for this operating system and architecture, and whether cuda.repo_url is right")
	}
	data, err = atMost(resp.Body)
	if err != nil {
		return nil, int64(len(data)) <= fetchLimit, fmt.Errorf("GET %s: %w", from, err)
	}
	return data, false, nil
}

// proxy is the environment's, else the configured one; never for loopback.
func (j *job) proxy(req *http.Request) (*url.URL, error) {
	if u, err := http.ProxyFromEnvironment(req); u != nil || err != nil {
		return u, err
	}
	host := req.URL.Hostname()
	if j.w.Proxy == "" || host == "localhost" || host == "127.0.0.1" || host == "::1" {
		return nil, nil
	}
	return url.Parse(j.w.Proxy)
}

// checkDeb takes only what begins as a Debian package does (man 5 deb).
func checkDeb(data []byte) error {
	if !bytes.HasPrefix(data, []byte("!<arch>\ndebian-binary ")) {
		return errors.New("is no Debian package")
	}
	return nil
}
