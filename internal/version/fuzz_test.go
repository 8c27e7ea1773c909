package version

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// A version becomes part of file names, URLs and commands, and decides by its
// order: there is one form of it, and the order is one.
func FuzzVersions(f *testing.F) {
	f.Add("580.142", "580.76.05", "570.211.01")
	f.Add("34.1.1", "418.30", "418.30.01")
	f.Add("580.142\n", "../580.1", "0580.1")
	f.Add("580.1.1000", "9999.999.999", "10.0.0")
	f.Add("٥٨٠.1", "580.1²", "5800.08.8")
	form := regexp.MustCompile(`\A[1-9][0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?\z`)
	f.Fuzz(func(t *testing.T, a, b, c string) {
		all := make([]Driver, 3)
		for i, s := range []string{a, b, c} {
			v, err := Parse(s)
			require.Equal(t, form.MatchString(s), err == nil, "%q", s)
			if err != nil {
				require.Empty(t, v)
				return
			}
			require.Equal(t, s, string(v))
			require.Zero(t, Compare(v, v))
			all[i] = v
		}
		for _, x := range all {
			for _, y := range all {
				require.Equal(t, Compare(x, y), -Compare(y, x))
				for _, z := range all {
					if Compare(x, y) <= 0 && Compare(y, z) <= 0 {
						require.LessOrEqual(t, Compare(x, z), 0, "%s %s %s", x, y, z)
					}
				}
			}
			require.Negative(t, Compare(x, "10000"))
		}
	})
}
