// Package lazy puts off work that most runs never need. Compiling all regular
// expressions of the program takes over a millisecond, a tenth of a run that
// finds nothing to do.
package lazy

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression that is compiled when it is first used. A
// mistake in it panics then, so each needs a test that uses it.
type Regexp struct {
	pattern  string
	once     sync.Once
	compiled *regexp.Regexp
}

// MustCompile stands in for the function of the same name in package regexp.
func MustCompile(pattern string) *Regexp { return &Regexp{pattern: pattern} }

func (r *Regexp) get() *regexp.Regexp {
	r.once.Do(func() { r.compiled = regexp.MustCompile(r.pattern) })
	return r.compiled
}

// MatchString is that of package regexp, as are the other methods.
func (r *Regexp) MatchString(s string) bool { return r.get().MatchString(s) }

// FindStringSubmatch returns the leftmost match and its groups, or nil.
func (r *Regexp) FindStringSubmatch(s string) []string { return r.get().FindStringSubmatch(s) }

// FindSubmatch returns the leftmost match and its groups, or nil.
func (r *Regexp) FindSubmatch(b []byte) [][]byte { return r.get().FindSubmatch(b) }

// FindAllString returns the first n matches, all of them when n is negative.
func (r *Regexp) FindAllString(s string, n int) []string { return r.get().FindAllString(s, n) }

// FindAllStringSubmatch returns the first n matches with their groups, all of
// them when n is negative.
func (r *Regexp) FindAllStringSubmatch(s string, n int) [][]string {
	return r.get().FindAllStringSubmatch(s, n)
}

// ReplaceAllString puts replacement, with $1 for a group, in place of each match.
func (r *Regexp) ReplaceAllString(s, replacement string) string {
	return r.get().ReplaceAllString(s, replacement)
}
