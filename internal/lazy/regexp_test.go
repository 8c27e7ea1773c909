package lazy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// As nothing compiles them when the program starts, a mistake in one would come
// to light in the middle of an installation.
func TestEveryPatternOfTheProgramCompiles(t *testing.T) {
	call := regexp.MustCompile("lazy\\.MustCompile\\(`([^`]*)`\\)")
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			seen++
			_, err := regexp.Compile(string(m[1]))
			require.NoError(t, err, path)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, seen, 20)
}

func TestRegexpAnswersAsPackageRegexpDoes(t *testing.T) {
	r, want := MustCompile(`([a-z]+)([0-9])`), regexp.MustCompile(`([a-z]+)([0-9])`)
	for _, s := range []string{"", "ab1 c2", "12"} {
		require.Equal(t, want.MatchString(s), r.MatchString(s))
		require.Equal(t, want.FindStringSubmatch(s), r.FindStringSubmatch(s))
		require.Equal(t, want.FindSubmatch([]byte(s)), r.FindSubmatch([]byte(s)))
		require.Equal(t, want.FindAllString(s, -1), r.FindAllString(s, -1))
		require.Equal(t, want.FindAllStringSubmatch(s, 1), r.FindAllStringSubmatch(s, 1))
		require.Equal(t, want.ReplaceAllString(s, "$2$1"), r.ReplaceAllString(s, "$2$1"))
	}
}
