package cuda

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A list of the user's that names the mirror with NVIDIA's keyring is taken as it
// is: apt then has the repository once, and NVIDIA's own list does not stand beside.
func TestAHandMadeListWithNVIDIAsKeyring(t *testing.T) {
	b := newBench(t, "bookworm")
	b.publish("a", nvidiaList, b.key, toolkits()...)
	const mine = sourcesDir + "/mine.list"
	text := "deb [signed-by=" + keyringFile + "] " + b.repo("a") + " /\n"
	require.NoError(t, os.WriteFile(b.lab.Root+mine, []byte(text), 0o644))
	require.NoError(t, os.WriteFile(b.lab.Root+sourcesDir+"/third.list", []byte("deb [trusted=yes] http://127.0.0.9:9/ /\n"), 0o644))
	require.NoError(t, b.install(func(w *Want) { w.Toolkit = "12.8" }))
	require.Equal(t, text, readIn(t, b, mine))
	require.False(t, b.exists(ownList), "the repository stands twice")
	require.False(t, b.exists(sourcesDir+"/cuda-debian12-x86_64.list"), "NVIDIA's own URL is asked too")
	require.NotContains(t, b.in("sh", "-c", "apt-get update 2>&1"), "configured multiple times")
	require.True(t, b.log.has("complains of other repositories: "))
	for _, l := range b.log.lines {
		if strings.Contains(l, "complains of other repositories: ") {
			require.Contains(t, l, "Could not connect", "the warning has its reason")
		}
	}
	b.remove()
	require.Equal(t, text, readIn(t, b, mine))
}
