package cache

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// byHand is the way that always works, without any network.
const byHand = "download it elsewhere, with its .sha256sum, and: pve-nvidia-hook cache add FILE"

// fetch downloads the wanted file from the first URL that has a good one.
func (c *Cache) fetch(ctx context.Context, p paths, w Want) error {
	if w.NoFetch != nil {
		return fmt.Errorf("fetch %s: %w", p.file(), w.NoFetch)
	}
	limit := or(c.DownloadLimit, 30*time.Minute)
	network, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the download took longer than %s", limit))
	defer cancel()
	var errs failures
	for _, template := range w.URLs {
		u, err := fill(template, w)
		if err == nil && errs.gone(u) {
			continue
		}
		if n := len(errs.list); n > 0 {
			c.log().Warnf("fetch %s: %v; trying the next URL", p.file(), errs.list[n-1])
		}
		if err == nil {
			if err = c.fetchFrom(ctx, network, u, p, w); err == nil {
				return nil
			}
			err = errs.from(u, err)
		}
		var here localFault
		switch {
		case ctx.Err() != nil, errors.As(err, &here):
			return fmt.Errorf("fetch %s: %w", p.file(), err)
		case network.Err() != nil:
			return hint.Errorf("the next start goes on where this one ended; or "+byHand, "fetch %s: %w", p.file(), err)
		}
		errs.add(err)
	}
	return hint.Errorf(adviceFor(errs.list), "fetch %s: %w", p.file(), joined(errs.list))
}

// adviceFor is the hint of the first error that has one, and the way by hand.
// Without URLs the node is meant to work without Internet.
func adviceFor(errs []error) string {
	if len(errs) == 0 {
		return byHand
	}
	for _, e := range errs {
		if h := hint.Of(e); h != "" {
			return h + "; or " + byHand
		}
	}
	return byHand + "; or correct driver.urls"
}

// fetchFrom downloads from one URL while network lasts, verifies, unpacks and
// publishes.
func (c *Cache) fetchFrom(ctx, network context.Context, u *url.URL, p paths, w Want) error {
	if u.Scheme != "https" && w.SHA256 == "" {
		return hint.Errorf("use https, or pin driver.sha256", "plain http is used only with a pinned sha256")
	}
	sum, how := w.SHA256, byPin
	if sum == "" {
		var err error
		if sum, how, err = sumBeside(p.sum, p.file()); err != nil {
			return localFault{err}
		}
	}
	if sum == "" {
		var err error
		sum, err = c.publishedSum(network, u, p)
		switch how = bySum; {
		case errors.Is(err, errNoSum) && w.RequireChecksum:
			return hint.Wrap(err, "pin driver.sha256, or set driver.require_checksum = false")
		case errors.Is(err, errNoSum):
			how = byHeader
		case err != nil:
			return err
		}
	}
	for {
		resumed, err := c.fetchOnce(ctx, network, u, p, w, sum, how)
		var here localFault
		if isContent(err) || errors.As(err, &here) {
			_ = os.Remove(p.part)
			_ = os.Remove(p.origin)
		}
		if !resumed || !isContent(err) {
			return err
		}
		c.log().Warnf("%s: the earlier partial download cannot be used: %v", p.file(), err)
	}
}

// fetchOnce reports whether it went on with what an earlier run had left.
func (c *Cache) fetchOnce(ctx, network context.Context, u *url.URL, p paths, w Want, sum, how string) (resumed bool, err error) {
	start := time.Now()
	d, err := c.openPart(u, p, w)
	if err != nil {
		return false, err
	}
	defer d.close()
	if err := d.run(network); err != nil {
		return d.resumed, err
	}
	d.flush()
	m, err := c.check(ctx, d.part, p, w, sum, how)
	if isContent(err) && strings.HasPrefix(d.kind, "text/html") {
		err = fmt.Errorf("the server sent a web page instead of a run file: %w", err)
	}
	if err != nil {
		return d.resumed, err
	}
	if err := d.part.Sync(); err != nil {
		removeTrees(p)
		return d.resumed, localFault{explainSpace(fmt.Errorf("write %s: %w", p.part, err), c.Dir)}
	}
	m.URL = shown(u)
	if err := c.publish(p, m, true, w.Tree); err != nil {
		return d.resumed, localFault{fmt.Errorf("keep %s: %w", p.run, err)}
	}
	if m.Verified == byHeader {
		c.log().Warnf("no checksum is published at %s, only the MD5 in the file's own header proves that it is complete", shown(u))
	}
	c.log().Infof("fetched %s: %s in %.1f s, %s", p.file(), say.Bytes(d.have), time.Since(start).Seconds(), m.Verified)
	return d.resumed, nil
}

// roomFor refuses a file for which there is no room, before it is written.
func (c *Cache) roomFor(total, have int64, tree bool, p paths) error {
	if total <= 0 {
		return nil // the server does not say how long it is
	}
	need := total - have
	if tree {
		need += unpackedSize(total)
	}
	return c.checkRoom(need, p.file())
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

// failures are those of the URLs that were tried in one fetch.
type failures struct {
	list  []error
	hosts map[string]bool // those of URLs whose name, or whose proxy's, cannot be resolved
}

// gone reports whether the name of u's host is known not to be resolved.
func (f *failures) gone(u *url.URL) bool { return f.hosts[u.Host] }

// from says where an error is from, and remembers a host whose name cannot be resolved.
func (f *failures) from(u *url.URL, err error) error {
	if nameless(err) {
		if f.hosts == nil {
			f.hosts = map[string]bool{}
		}
		f.hosts[u.Host] = true
	}
	return located(u, err)
}

// add leaves out what was said already: all URLs may lack the same proxy.
func (f *failures) add(err error) {
	if n := len(f.list); n == 0 || f.list[n-1].Error() != err.Error() {
		f.list = append(f.list, err)
	}
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
