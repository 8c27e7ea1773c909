package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const sumMost = 64 << 10 // bytes read of a checksum file

// errNoSum means that a server offers no checksum for a file.
var errNoSum = errors.New("no checksum is published there")

// parseSum finds the sha256 of one of names in the output of sha256sum(1):
// "<64 hex digits>  NAME" or, of a file read in binary mode, "<64 hex digits> *NAME".
func parseSum(text []byte, names ...string) (string, error) {
	others := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, sumMost)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \r")
		if line == "" {
			continue
		}
		sum, name, ok := strings.Cut(line, " ")
		name = strings.TrimLeft(name, " *")
		if !ok || name == "" || !isSHA256(sum) {
			return "", fmt.Errorf("not the output of sha256sum but %.60q", line)
		}
		name = path.Base(name)
		for _, n := range names {
			if name == n {
				return strings.ToLower(sum), nil
			}
		}
		others = name
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("not the output of sha256sum: %w", err)
	}
	if others == "" {
		return "", errors.New("it is empty")
	}
	return "", fmt.Errorf("it is for %.100q, not for %s", others, names[0])
}

// publishedSum asks for the checksum beside a URL. A server that has none
// answers 404 or 403: errNoSum. The caller's error names the URL.
func (c *Cache) publishedSum(ctx context.Context, u *url.URL, p paths) (string, error) {
	at := *u
	at.Path += ".sha256sum"
	at.RawPath = ""
	cl := c.client(false)
	defer cl.HTTPClient.CloseIdleConnections()
	r, err := request(ctx, cl, &at, nil)
	if noSuchHost(err) {
		return "", err // of the host, not of this file
	}
	if err != nil {
		return "", fmt.Errorf("its .sha256sum: %w", err)
	}
	defer r.Body.Close()
	switch r.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone:
		return "", errNoSum
	default:
		return "", fmt.Errorf("its .sha256sum: the server answered %s", r.Status)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, sumMost))
	if err != nil {
		return "", fmt.Errorf("its .sha256sum: %w", err)
	}
	sum, err := parseSum(text, p.file(), path.Base(u.Path))
	if err != nil {
		return "", fmt.Errorf("its .sha256sum: %w", err)
	}
	return sum, nil
}

// anySum returns the first checksum that one of the URLs offers.
func (c *Cache) anySum(ctx context.Context, p paths, w Want) (string, error) {
	var errs failures
	for _, template := range w.URLs {
		u, err := fill(template, w)
		if err == nil && errs.gone(u) {
			continue
		}
		if err == nil && u.Scheme != "https" {
			err = fmt.Errorf("%s: a checksum from plain http proves nothing", shown(u))
		}
		if err == nil {
			var sum string
			if sum, err = c.publishedSum(ctx, u, p); err == nil {
				return sum, nil
			}
			err = errs.from(u, err)
		}
		if ctx.Err() != nil {
			return "", err
		}
		errs.add(err)
	}
	return "", hint.Errorf("pin driver.sha256, put the checksum beside the file as "+p.file()+".sha256sum, or set driver.require_checksum = false",
		"a checksum is required and none was found: %w", joined(errs.list))
}

// fill makes the URL of a wanted file from a template.
func fill(template string, w Want) (*url.URL, error) {
	osArch := "Linux-x86_64"
	if w.Arch == "aarch64" {
		osArch = "aarch64" // the folder on us.download.nvidia.com
	}
	text := strings.NewReplacer("{version}", string(w.Version), "{arch}", w.Arch, "{os_arch}", osArch,
		"{file}", FileName(w.Version, w.Arch)).Replace(template)
	u, err := url.Parse(text)
	if err != nil {
		// The error of url.Parse repeats the URL with its password.
		return nil, hint.Errorf("correct driver.urls", "a URL of driver.urls cannot be read: %w", bare(err))
	}
	switch {
	case strings.ContainsAny(u.Path+u.Host, "{}"):
		return nil, hint.Errorf("the known ones are {version}, {arch}, {os_arch} and {file}", "%s: unknown placeholder", shown(u))
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, hint.Errorf("correct driver.urls", "%s: neither https:// nor http://", shown(u))
	}
	return u, nil
}

// joined writes several errors, of a URL each.
func joined(errs []error) error {
	if len(errs) == 0 {
		return errors.New("no URL is configured (driver.urls)")
	}
	return all(errs)
}

// all is errors.Join with a line for each, which can be told apart on one line too.
type all []error

func (a all) Error() string {
	s := make([]string, len(a))
	for i, e := range a {
		s[i] = e.Error()
	}
	return strings.Join(s, ";\n")
}

func (a all) Unwrap() []error { return a }
