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
	call := regexp.MustCompile("lazy\\.Regexp\\(`([^`]*)`\\)")
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
