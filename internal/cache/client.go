package cache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const maxRedirects = 5

var errRedirect = errors.New("redirect refused")

// client makes the HTTP client of one file. Requests are repeated on network
// errors, 5xx and 429; plain http is followed only for a pinned file.
func (c *Cache) client(pinned bool) *retryablehttp.Client {
	// HTTP/1.1 only: one connection carries one long transfer.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		Proxy:                 Proxy(c.Proxy),
		DialContext:           c.dialer(),
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: or(c.pace.answer, time.Minute),
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // lengths and ranges are those of the file
		Protocols:             protocols,
	}
	why, told := "", "" // the request before failed; a client makes one at a time
	return &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: transport,
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) >= maxRedirects {
					return fmt.Errorf("%w: more than %d in a row", errRedirect, maxRedirects)
				}
				if r.URL.Scheme != "https" && via[0].URL.Scheme == "https" && !pinned {
					return fmt.Errorf("%w: it leads from https to %s", errRedirect, shown(r.URL))
				}
				return nil
			},
		},
		RetryMax:     or(c.pace.tries, 4) - 1,
		RetryWaitMin: or(c.pace.wait, time.Second),
		RetryWaitMax: or(c.pace.longest, 30*time.Second),
		Backoff: func(least, most time.Duration, attempt int, r *http.Response) time.Duration {
			return min(retryablehttp.DefaultBackoff(least, most, attempt, r), most) // Retry-After may say an hour
		},
		CheckRetry: func(ctx context.Context, r *http.Response, err error) (bool, error) {
			if errors.Is(err, errRedirect) || noSuchHost(err) {
				return false, nil
			}
			if err != nil {
				why = bare(err).Error()
			} else if r != nil {
				why = "the server answered " + r.Status
			}
			return retryablehttp.DefaultRetryPolicy(ctx, r, err)
		},
		// The last answer itself, not a text about it.
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		RequestLogHook: func(_ retryablehttp.Logger, r *http.Request, attempt int) {
			if line := shown(r.URL) + ": " + why; attempt > 0 && line != told {
				c.log().Infof("retrying %s", line)
				told = line
			}
		},
	}
}

// request asks for a URL, and returns the answer whatever its status.
func request(ctx context.Context, cl *retryablehttp.Client, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, bare(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", "pve-nvidia-hook")
	r, err := cl.Do(req)
	if err != nil {
		return nil, because(ctx, bare(err))
	}
	return r, nil
}

// bare takes the URL, which may hold credentials, out of an error of net/http,
// and what says nothing to a reader out of one of a name that is not resolved.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return bare(u.Err)
	}
	var d *net.DNSError
	if errors.As(err, &d) {
		return unresolved{d}
	}
	return err
}

// unresolved is "cannot resolve example.com: i/o timeout" in place of
// "dial tcp: lookup example.com on 192.0.2.1:53: read udp 192.0.2.7:53612->192.0.2.1:53: i/o timeout".
type unresolved struct{ *net.DNSError }

func (e unresolved) Unwrap() error { return e.DNSError }

func (e unresolved) Error() string {
	if e.IsNotFound {
		return "cannot reach " + e.Name + ": no such host"
	}
	return "cannot resolve " + e.Name + ": " + strings.TrimSpace(e.Err[strings.LastIndex(e.Err, ": ")+1:])
}

// noSuchHost reports whether a name server knows no such name, which asking again
// does not change. No answer, or one that it failed to find, is another matter.
func noSuchHost(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

func (c *Cache) dialer() func(context.Context, string, string) (net.Conn, error) {
	if c.dial != nil {
		return c.dial
	}
	return (&net.Dialer{Timeout: 15 * time.Second}).DialContext
}

// shown is a URL fit for logs and files: without credentials and query.
func shown(u *url.URL) string {
	s := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	if u.RawQuery != "" {
		s += "?..."
	}
	return s
}

// Proxy tells the proxy of a request, as http.Transport asks: the environment's,
// else setting, a URL, for all but this machine itself. Its errors show no URL,
// which may hold a password.
func Proxy(setting string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if setting == "" || proxyInEnvironment() {
			u, err := http.ProxyFromEnvironment(r)
			if err != nil {
				return nil, errors.New("the proxy in the environment is not a URL such as http://proxy:3128")
			}
			return u, nil
		}
		host := r.URL.Hostname()
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			return nil, nil
		}
		u, err := url.Parse(setting)
		if err != nil || u.Host == "" {
			return nil, errors.New("the proxy setting is not a URL such as http://proxy:3128")
		}
		return u, nil
	}
}

func proxyInEnvironment() bool {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if os.Getenv(name) != "" || os.Getenv(strings.ToLower(name)) != "" {
			return true
		}
	}
	return false
}

// NetworkHint is what to do where this node reaches no server.
const NetworkHint = "check this node's network, its name server and its proxy (https_proxy, or http_proxy in /etc/pve/datacenter.cfg)"

// From says in this package's words what an error of net/http is, for others who
// fetch for the shared cache.
func From(u *url.URL, err error) error { return located(u, bare(err)) }

// located says where an error of a request is from: a URL, or a name that cannot be resolved.
func located(u *url.URL, err error) error {
	if nameless(err) {
		return hint.Wrap(err, NetworkHint)
	}
	return fmt.Errorf("%s: %w", shown(u), err)
}

// nameless reports whether all that err says is that a host's name cannot be resolved.
func nameless(err error) bool {
	_, whole := err.(unresolved)
	return whole
}
