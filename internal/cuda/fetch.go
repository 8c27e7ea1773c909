package cuda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// fetchLimit bounds what is downloaded by the host: keyring packages and .repo
// files have a few kilobytes.
const fetchLimit = 1 << 20

// fetch fetches a small file on the host.
func (j *job) fetch(ctx context.Context, from, name string, check func([]byte) error) (data []byte, err error) {
	waits := patience{j.w.NetworkWait, "fetch " + name + " on the host", "waiting for the host's network or the repository", ""}
	err = j.retry(ctx, waits, func() (again bool, err error) {
		data, again, err = j.get(ctx, from)
		return again, err
	})
	if err != nil {
		return nil, err
	}
	if err := check(data); err != nil {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", from, err), "a proxy or login page may have answered in place of the repository")
	}
	return data, nil
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
	transport := &http.Transport{Proxy: cache.Proxy(j.w.Proxy), DialContext: j.w.dial, DisableKeepAlives: true}
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
		return nil, true, hint.Wrap(cache.From(req.URL, err), cache.NetworkHint+notAffected)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s: the server answered %s", from, resp.Status)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return nil, true, hint.Wrap(err, "try later, or set cuda.repo_url to a mirror"+notAffected)
		}
		return nil, false, hint.Wrap(err, "look whether NVIDIA has a repository for this operating system and architecture, and whether cuda.repo_url is right")
	}
	data, err = atMost(resp.Body)
	if err != nil {
		return nil, int64(len(data)) <= fetchLimit, hint.Wrap(cache.From(req.URL, err), cache.NetworkHint+notAffected)
	}
	return data, false, nil
}

// checkDeb takes only what begins as a Debian package does (man 5 deb).
func checkDeb(data []byte) error {
	if !bytes.HasPrefix(data, []byte("!<arch>\ndebian-binary ")) {
		return errors.New("is not a Debian package")
	}
	return nil
}
