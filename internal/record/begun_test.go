package record

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatWasBegunComesBack(t *testing.T) {
	c := &memory{}
	none, err := ReadBegun(c)
	require.NoError(t, err)
	require.Nil(t, none)
	want := Begun{Version: "580.142", At: time.Unix(1, 0).UTC(), Files: []File{{Path: "/usr/bin/nvidia-smi", Size: 7}, {Path: "/usr/lib/libcuda.so.1", Link: "libcuda.so.580.142"}}}
	require.NoError(t, WriteBegun(c, want))
	got, err := ReadBegun(c)
	require.NoError(t, err)
	require.Equal(t, want, *got)
}

func TestWhatWasBegunThatCannotBeBelieved(t *testing.T) {
	for name, data := range map[string]string{
		"no JSON":        "x",
		"relative path":  `{"files":[{"path":"usr/bin/x"}]}`,
		"path with dots": `{"files":[{"path":"/usr/../etc/passwd"}]}`,
		"too many files": `{"files":[` + strings.TrimSuffix(strings.Repeat(`{"path":"/a"},`, fileLimit+1), ",") + `]}`,
		"too large":      `{"version":"` + strings.Repeat("x", sizeLimit) + `"}`,
	} {
		_, err := ReadBegun(&memory{data: []byte(data)})
		require.Error(t, err, name)
	}
}
