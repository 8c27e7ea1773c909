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
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// errNoSum means that a server offers no checksum for a file.
var errNoSum = errors.New("no checksum is published there")

// parseSum finds the sha256 of one of names in the output of sha256sum(1):
// "<64 hex digits>  NAME" or, of a file read in binary mode, "<64 hex digits> *NAME".
func parseSum(text []byte, names ...string) (string, error) {
	others := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxSmall)
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

// sumLimit bounds the time for a checksum, with all tries.
const sumLimit = 3 * time.Minute

// publishedSum asks for the checksum beside a URL. errNoSum means that the server
// has none (404, 403 or 410). The caller's error names the URL.
func (c *Cache) publishedSum(ctx context.Context, u *url.URL, p paths) (string, error) {
	sum, err := c.askForSum(ctx, u, p)
	if err == nil || errors.Is(err, errNoSum) || nameless(err) { // the last is of the host, not of this file
		return sum, err
	}
	return "", fmt.Errorf("its .sha256sum: %w", err)
}

func (c *Cache) askForSum(ctx context.Context, u *url.URL, p paths) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sumLimit, fmt.Errorf("no complete answer within %s", sumLimit))
	defer cancel()
	at := *u
	at.Path += ".sha256sum"
	at.RawPath = ""
	cl := c.client(false)
	defer cl.HTTPClient.CloseIdleConnections()
	r, err := request(ctx, cl, &at, nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	switch r.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone:
		return "", errNoSum
	default:
		return "", fmt.Errorf("the server answered %s", r.Status)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxSmall))
	if err != nil {
		return "", because(ctx, err)
	}
	return parseSum(text, p.file(), path.Base(u.Path))
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
