// Package lazy puts off work that most runs never need. Compiling all regular
// expressions of the program takes over a millisecond, a tenth of a run that
// finds nothing to do.
package lazy

import (
	"regexp"
	"sync"
)

// Regexp compiles pattern at the first call of what it returns. A mistake in the
// pattern panics then; a test of this package compiles every pattern.
func Regexp(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}
