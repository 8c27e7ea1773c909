package lock

import (
	"os"
	"path/filepath"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

func FuzzHolderText(f *testing.F) {
	for _, s := range []string{"", "{}", `{"pid":1,"host":"n","what":"container 101","since":"2025-09-23T12:01:02Z"}`, `{"pid":1e99}`, `{"pid":2,"what":"\u001b[31m"}`} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "a.lock")
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(path, text, 0o644))
		said := Holder(path)
		require.Less(t, len(said), 1500)
		for _, r := range said {
			require.True(t, unicode.IsPrint(r), "%q", said)
		}
	})
}
