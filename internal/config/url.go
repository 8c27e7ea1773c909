package config

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

var placeholders = []string{"{version}", "{arch}", "{os_arch}", "{file}"}

// checkURL checks a template for the URL of a run file. Whether http is fine
// depends on the pinned sha256, which another file may hold: Settings.check sees to that.
func checkURL(s string) (string, string) {
	plain := s
	for _, p := range placeholders {
		plain = strings.ReplaceAll(plain, p, "x")
	}
	if strings.ContainsAny(plain, "{}") {
		return "", quote(s) + " holds an unknown placeholder"
	}
	u, wrong := parseURL(plain, s)
	if wrong != "" {
		return "", wrong
	}
	if u.Path == "" || strings.HasSuffix(u.Path, "/") {
		return "", quote(s) + " names no file"
	}
	return s, ""
}

// checkRepoURL wants https: the keyring package that all further trust rests on comes from there.
func checkRepoURL(s string) (string, string) {
	if s == "" {
		return "", ""
	}
	u, wrong := parseURL(strings.NewReplacer("{distro}", "x", "{arch}", "x").Replace(s), s)
	if wrong != "" {
		return "", wrong
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return "", quote(s) + " is not https"
	}
	if u.User != nil {
		return "", quote(s) + " holds a login, which every user of the container could read"
	}
	if u.RawQuery != "" {
		return "", quote(s) + " holds a query"
	}
	return s, ""
}

// parseURL parses s; shown is what the user wrote.
func parseURL(s, shown string) (*url.URL, string) {
	if strings.ContainsAny(s, " {}<>\"\\^`|") {
		return nil, quote(shown) + " holds a space or another character that no URL has"
	}
	u, err := url.Parse(s) // its error would show credentials
	switch {
	case err != nil:
		return nil, quote(shown) + " is not a URL"
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, quote(shown) + " starts with neither https:// nor http://"
	case u.Hostname() == "":
		return nil, quote(shown) + " names no host"
	case u.Fragment != "":
		return nil, quote(shown) + " holds a #"
	}
	return u, ""
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// RedactURL puts *** in the place of the credentials and the query of a URL,
// which may be a signature. It works on text that is no good URL, too, and then rather cuts too much.
func RedactURL(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	rest, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = "***" + rest[at:]
	} else if strings.Contains(query, "@") { // an unescaped ? in a password
		return scheme + "***"
	}
	if query != "" {
		rest += "?***"
	}
	return scheme + rest
}

// fileVersion returns the driver version that the file name of a URL carries, or "".
func fileVersion(u string) string {
	u, _, _ = strings.Cut(u, "?")
	name := u[strings.LastIndexByte(u, '/')+1:]
	for _, run := range strings.FieldsFunc(name, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) {
		if v, err := version.Parse(strings.Trim(run, ".")); err == nil {
			return string(v)
		}
	}
	return ""
}

// follow makes a URL for one driver version a template for any.
func follow(u, v string) string {
	_, rest, _ := strings.Cut(u, "://")
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return u
	}
	head := u[:len(u)-len(rest)+slash]
	return head + strings.ReplaceAll(rest[slash:], v, "{version}")
}
