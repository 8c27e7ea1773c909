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

const restartsMost = 3 // of one URL, when a transfer could not be continued

// fetch downloads the wanted file from the first URL that has a good one.
func (c *Cache) fetch(ctx context.Context, p paths, w Want) error {
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
			if err = c.fetchFrom(ctx, u, p, w); err == nil {
				return nil
			}
			err = errs.from(u, err)
		}
		var here localFault
		if ctx.Err() != nil || errors.As(err, &here) {
			return fmt.Errorf("fetch %s: %w", p.file(), err)
		}
		errs.add(err)
	}
	return hint.Errorf(adviceFor(errs.list), "fetch %s: %w", p.file(), joined(errs.list))
}

// failures are those of the URLs that were tried in one fetch.
type failures struct {
	list  []error
	hosts map[string]bool // those of URLs whose name, or whose proxy's, does not exist
}

// gone reports whether there is no use in asking the host of u again.
func (f *failures) gone(u *url.URL) bool { return f.hosts[u.Host] }

// from says where an error is from, and remembers a host that does not exist.
func (f *failures) from(u *url.URL, err error) error {
	if absent(err) {
		if f.hosts == nil {
			f.hosts = map[string]bool{}
		}
		f.hosts[u.Host] = true
	}
	return located(u, err)
}

// NetworkHint is what to do where this node reaches no server.
const NetworkHint = "check this node's network, its name server and its proxy (https_proxy, or http_proxy in /etc/pve/datacenter.cfg)"

// From says in this package's words what an error of net/http is, for others who
// fetch for the shared cache.
func From(u *url.URL, err error) error { return located(u, bare(err)) }

// located says where an error of a request is from: a URL, or a host that does not exist.
func located(u *url.URL, err error) error {
	if absent(err) {
		return hint.Wrap(err, NetworkHint)
	}
	return fmt.Errorf("%s: %w", shown(u), err)
}

// absent reports whether all that err says is that a host does not exist.
func absent(err error) bool {
	_, whole := err.(unresolved)
	return whole && noSuchHost(err)
}

// add leaves out what was said already: the proxy of all URLs may be what is missing.
func (f *failures) add(err error) {
	if n := len(f.list); n == 0 || f.list[n-1].Error() != err.Error() {
		f.list = append(f.list, err)
	}
}

// byHand is the way that always works, without any network.
const byHand = "download it elsewhere, with its .sha256sum, and: pve-nvidia-hook cache add FILE"

// adviceFor is the hint of the first error that has one, and the way by hand.
// Who has no URLs has taken them away for a node without Internet.
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

func (c *Cache) fetchFrom(ctx context.Context, u *url.URL, p paths, w Want) error {
	if u.Scheme != "https" && w.SHA256 == "" {
		return hint.Errorf("use https, or pin driver.sha256", "plain http is used only with a pinned sha256")
	}
	sum, how := w.SHA256, byPin
	if sum == "" {
		var err error
		sum, err = c.publishedSum(ctx, u, p)
		switch how = bySum; {
		case errors.Is(err, errNoSum) && w.RequireChecksum:
			return hint.Wrap(err, "pin driver.sha256, or set driver.require_checksum = false")
		case errors.Is(err, errNoSum):
			how = byHeader
		case err != nil:
			return err
		}
	}
	for try := 1; ; try++ {
		err := c.transfer(ctx, u, p, w, sum, how)
		if err == nil && how == byHeader {
			c.log().Warnf("no checksum is published at %s, only the MD5 in the file's own header vouches for it", shown(u))
		}
		if !errors.Is(err, errRestart) || try >= restartsMost {
			return err
		}
		c.log().Warnf("%s: %v", p.file(), err)
	}
}

// transfer downloads, verifies and unpacks in one pass, and publishes.
// errRestart (wrapped) means that another try may succeed.
func (c *Cache) transfer(ctx context.Context, u *url.URL, p paths, w Want, sum, how string) error {
	s, err := c.open(ctx, c.client(w.SHA256 != ""), u, p)
	if err != nil {
		c.dropPart(p, err)
		return err
	}
	defer s.close()
	if err := c.roomFor(s.size, s.back, w.Tree, p); err != nil {
		c.dropPart(p, err)
		return err
	}
	start := time.Now()
	from := ""
	if s.size > 0 {
		from = " (" + say.Bytes(s.size) + ")"
	}
	c.log().Infof("fetching %s%s from %s", p.file(), from, shown(u))
	rep, err := c.pass(ctx, s, p, runWant(w, sum, s.size), w.Tree)
	if fault := s.end(); fault != nil {
		err = fault // what stopped the transfer says more than what the reader made of it
	}
	if err != nil {
		_ = os.RemoveAll(p.newTree)
		c.dropPart(p, err)
		var bad contentFault
		if errors.As(err, &bad) && s.back > 0 {
			return fmt.Errorf("%w: what an earlier run has left of it was of no use: %w", errRestart, err)
		}
		if bad.error != nil {
			from := "driver.sha256"
			if how == bySum {
				from = "its published .sha256sum"
			}
			err = whose(err, from)
		}
		if bad.error != nil && strings.HasPrefix(s.kind, "text/html") {
			err = fmt.Errorf("the server sent a web page instead of a run file: %w", err)
		}
		return err
	}
	if err := s.seal(); err != nil {
		removeTrees(p)
		err = localFault{explainSpace(fmt.Errorf("write %s: %w", p.part, err), c.Dir)}
		c.dropPart(p, err)
		return err
	}
	took := time.Since(start).Seconds()
	m := Meta{URL: shown(u), SHA256: rep.SHA256, Verified: how, At: time.Now().UTC().Truncate(time.Second)}
	if err := c.publish(p, m, true, w.Tree); err != nil {
		return localFault{fmt.Errorf("keep %s: %w", p.run, err)}
	}
	c.log().Infof("fetched %s: %s in %.1f s, %s", p.file(), say.Bytes(rep.Size), took, how)
	return nil
}

// roomFor asks for room for the run file and its tree, before they are written.
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

// dropPart removes the partial download unless it can be continued later: after
// a broken transfer or a cancelled run it can, after anything else it cannot.
func (c *Cache) dropPart(p paths, err error) {
	var bad contentFault
	var here localFault
	st, e := os.Lstat(p.part)
	if errors.As(err, &bad) || errors.As(err, &here) || errors.Is(err, errRestart) || e == nil && st.Size() == 0 {
		_ = os.Remove(p.part)
		_ = os.Remove(p.origin)
	}
}
