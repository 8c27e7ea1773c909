package cuda

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePinComesAndGoesBesideTheUsersOwnWords(t *testing.T) {
	programs := map[string]string{"/usr/bin/apt-get": "", "/usr/bin/dnf": "", "/usr/bin/zypper": ""}
	for name, files := range map[string]map[string]string{
		"nothing there": {},
		"as installed":  {dnfConf: "[main]\ngpgcheck=1\n", zyppLock: ""},
		"own excludes":  {dnfConf: "# mine\n[main]\nexcludepkgs=a\n    b\nbest=1\n[repo]\nexcludepkgs=c\n", zyppLock: zyppStanza("a") + "\n" + zyppStanza("libcuda1x") + "\n"},
		"no section":    {dnfConf: "# empty\n"},
		"last line":     {dnfConf: "[main]\ngpgcheck=1"},
		"another tool":  {pinFile: "# not ours\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newFolder(t, programs) // in which no process can be started
			for file, text := range files {
				c.set(file, text)
			}
			require.False(t, Pinned(c))
			require.NoError(t, Pin(c))
			require.True(t, Pinned(c))
			require.Equal(t, 1, strings.Count(c.text(dnfConf), mark))
			require.Contains(t, c.text(zyppLock), "solvable_name: libcuda1\n")
			again := c.text(dnfConf) + c.text(zyppLock)
			require.NoError(t, Pin(c))
			require.Equal(t, again, c.text(dnfConf)+c.text(zyppLock))
			require.NoError(t, Unpin(c))
			for _, file := range []string{pinFile, dnfConf, zyppLock} {
				text, there := files[file]
				switch {
				case file == pinFile: // it is ours by its name
					require.NoFileExists(t, c.root+file)
				case !there || text == "":
					require.NoFileExists(t, c.root+file)
				default:
					require.Equal(t, strings.TrimSuffix(text, "\n"), strings.TrimSuffix(c.text(file), "\n"))
				}
			}
		})
	}
	alone := newFolder(t, nil)
	require.NoError(t, Pin(alone))
	require.NoFileExists(t, alone.root+pinFile, "a container without apt")
}
