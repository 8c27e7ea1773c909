package cache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestFetchesOnceThenFinds(t *testing.T) {
	c, said := newCache(t)
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	e := get(t, c, want(v1, s.template()))
	require.True(t, e.Fetched)
	require.Equal(t, "published sha256", e.Meta.Verified)
	require.Equal(t, s.URL+"/550.163.01/NVIDIA-Linux-x86_64-550.163.01.run", e.Meta.URL)
	require.Equal(t, filepath.Join(c.Dir, "NVIDIA-Linux-x86_64-550.163.01.run"), e.RunFile)
	require.FileExists(t, filepath.Join(e.Tree, ".manifest"))
	require.Equal(t, v1, e.Report.Header.Version)
	require.Equal(t, sumOf(b), e.Report.SHA256)
	got, err := os.ReadFile(e.RunFile)
	require.NoError(t, err)
	require.Equal(t, b, got)
	for name, mode := range map[string]os.FileMode{c.Dir: 0o755, e.RunFile: 0o644, e.Tree: 0o755, e.Tree + endMeta: 0o644, e.Tree + endLock: 0o600} {
		st, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, mode, st.Mode().Perm(), name)
	}
	requireClean(t, c, v1)

	again := get(t, c, want(v1, s.template()))
	require.False(t, again.Fetched)
	require.Equal(t, e.Report.Header, again.Report.Header)
	require.Equal(t, 1, s.count(e.Meta.file()), said.text())
}

func (m Meta) file() string { return filepath.Base(m.URL) }

func TestFoundEntryNeedsNoNetworkAndNoWriting(t *testing.T) {
	c, said := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	get(t, c, want(v1, s.template())).Release()
	s.Close()
	said.lines = nil
	get(t, c, want(v1, s.template())).Release()
	require.Empty(t, said.text())
}

func TestTreeIsUnpackedLaterFromTheFile(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	w := want(v1, s.template())
	w.Tree = false
	e := get(t, c, w)
	require.Empty(t, e.Tree)
	require.NoDirExists(t, filepath.Join(c.Dir, base(v1, "x86_64")))
	e.Release()
	w.Tree = true
	e = get(t, c, w)
	require.False(t, e.Fetched)
	require.FileExists(t, filepath.Join(e.Tree, ".manifest"))
	require.Equal(t, bySum, e.Meta.Verified, "it stays what it was")
	require.NotEmpty(t, e.Meta.URL)
	requireClean(t, c, v1)
}

func TestIncompleteTreeIsUnpackedAgain(t *testing.T) {
	for name, spoil := range map[string]func(tree string) error{
		"file cut off": func(tree string) error { return os.Truncate(filepath.Join(tree, ".manifest"), 0) },
		"file missing": func(tree string) error { return os.Remove(filepath.Join(tree, ".manifest")) },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newCache(t)
			s := serve(t, true).offer(v1, sample(t, v1))
			e := get(t, c, want(v1, s.template()))
			e.Release()
			require.NoError(t, spoil(e.Tree))
			e = get(t, c, want(v1, s.template()))
			st, err := os.Stat(filepath.Join(e.Tree, ".manifest"))
			require.NoError(t, err)
			require.NotZero(t, st.Size())
			require.Equal(t, 1, s.count(e.Meta.file()))
		})
	}
}

func TestTreeOfOthersIsNotTrusted(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	tree := filepath.Join(c.Dir, base(v1, "x86_64"))
	require.NoError(t, os.MkdirAll(tree, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "planted"), nil, 0o755))
	e := get(t, c, want(v1, s.template()))
	require.NoFileExists(t, filepath.Join(e.Tree, "planted"))
	e.Release()
	require.NoError(t, os.RemoveAll(tree))
	require.NoError(t, os.MkdirAll(tree, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "planted"), nil, 0o755))
	e = get(t, c, want(v1, s.template()))
	require.NoFileExists(t, filepath.Join(e.Tree, "planted"))
	require.FileExists(t, filepath.Join(e.Tree, ".manifest"))
}

func TestOwnFileThatChangedIsFetchedAgain(t *testing.T) {
	c, said := newCache(t)
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	e := get(t, c, want(v1, s.template()))
	e.Release()
	f, err := os.OpenFile(e.RunFile, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), int64(len(b)-100))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	e = get(t, c, want(v1, s.template()))
	require.True(t, e.Fetched)
	require.Contains(t, said.text(), runName+" is refused: ")
	require.Contains(t, said.text(), "; fetching it")
	got, err := os.ReadFile(e.RunFile)
	require.NoError(t, err)
	require.Equal(t, b, got)
	requireClean(t, c, v1)
}

func TestTouchedFileIsReadAgainAndKeepsItsProof(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	e := get(t, c, want(v1, s.template()))
	e.Release()
	require.NoError(t, os.Chtimes(e.RunFile, e.Meta.At, e.Meta.At))
	e = get(t, c, want(v1, s.template()))
	require.False(t, e.Fetched)
	require.Equal(t, bySum, e.Meta.Verified)
	require.NotEmpty(t, e.Meta.URL)
}

func TestPinThatDiffersFromTheFileIsRefused(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	e := get(t, c, want(v1, s.template()))
	e.Release()
	w := want(v1, s.template())
	w.SHA256 = sumOf(nil)
	_, err := c.Get(testContext(t), w)
	require.ErrorContains(t, err, "is pinned")
	require.FileExists(t, e.RunFile)
	w.SHA256 = e.Meta.SHA256
	require.Equal(t, byPin, get(t, c, w).Meta.Verified)
}

func TestWaiterNamesTheHolderAndGivesUp(t *testing.T) {
	c, said := newCache(t)
	require.NoError(t, CheckDir(c.Dir))
	l, err := lock.Take(testContext(t), c.paths(v1, "x86_64").lock, lock.Options{Holder: "container 101"})
	require.NoError(t, err)
	defer l.Release()
	c.LockTimeout = 500 * time.Millisecond // the first word on it comes after 10 ms
	_, err = c.Get(testContext(t), want(v1, "https://127.0.0.1:1/{file}"))
	require.ErrorIs(t, err, lock.ErrBusy)
	require.ErrorContains(t, err, "for container 101 since")
	require.Contains(t, said.text(), "held by pid")
}

func TestSenselessWantsAreRefused(t *testing.T) {
	c, _ := newCache(t)
	for _, w := range []Want{
		{Version: "../../etc", Arch: "x86_64"},
		{Version: v1, Arch: "../x"},
		{Version: v1, Arch: "x86_64", SHA256: "abc"},
		{Version: v1, Arch: "x86_64"},
		{Version: v1, Arch: "x86_64", URLs: []string{"ftp://h/{file}"}},
		{Version: v1, Arch: "x86_64", URLs: []string{"https://h/{nonsense}"}},
		{Version: v1, Arch: "x86_64", URLs: []string{"http://h/{file}"}},
		{Version: v1, Arch: "x86_64", URLs: []string{"https://user:secret@h:port/"}},
	} {
		_, err := c.Get(testContext(t), w)
		require.Error(t, err, "%+v", w)
		require.NotContains(t, err.Error(), "secret")
	}
	requireClean(t, c)
}

func TestDecisionFollowsFromWhatIsFound(t *testing.T) {
	sum := sumOf(nil)
	good := Meta{SHA256: sum, Verified: bySum}
	bare := Meta{SHA256: sum, Verified: byHeader}
	for _, c := range []struct {
		why  string
		f    found
		w    Want
		next step
	}{
		{"nothing there", found{}, Want{}, fetch},
		{"tree without file", found{tree: true}, Want{Tree: true}, fetch},
		{"put there by hand", found{there: true}, Want{}, verify},
		{"exchanged", found{there: true, meta: &good}, Want{}, verify},
		{"all there", found{there: true, same: true, meta: &good, tree: true}, Want{Tree: true}, use},
		{"tree not wanted", found{there: true, same: true, meta: &good}, Want{}, use},
		{"tree missing", found{there: true, same: true, meta: &good}, Want{Tree: true}, unpack},
		{"no checksum, none required", found{there: true, same: true, meta: &bare}, Want{}, use},
		{"no checksum, one required", found{there: true, same: true, meta: &bare}, Want{RequireChecksum: true}, confirm},
		{"no checksum, but pinned", found{there: true, same: true, meta: &bare}, Want{RequireChecksum: true, SHA256: sum}, use},
		{"another pinned", found{there: true, same: true, meta: &good}, Want{SHA256: "0"}, refuse},
	} {
		require.Equal(t, c.next, decide(c.f, c.w), c.why)
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, "NVIDIA-Linux-aarch64-580.95.05.run", FileName("580.95.05", "aarch64"))
	for name, want := range map[string]struct {
		v      version.Driver
		ending string
	}{
		"NVIDIA-Linux-x86_64-550.163.01":                     {v1, ""},
		"NVIDIA-Linux-x86_64-550.163.01.run":                 {v1, endRun},
		"NVIDIA-Linux-x86_64-580.142.json":                   {v2, endMeta},
		"NVIDIA-Linux-x86_64-580.142.run.part":               {v2, endPart},
		"NVIDIA-Linux-x86_64-580.142.run.part.json":          {v2, endOrigin},
		"NVIDIA-Linux-x86_64-580.142.tree.new":               {v2, endNewTree},
		"NVIDIA-Linux-x86_64-580.142.run.refused":            {v2, endRefused},
		"NVIDIA-Linux-x86_64-580.142.run.refused.txt":        {v2, endReason},
		"NVIDIA-Linux-x86_64-580.142-no-compat32.run":        {},
		"NVIDIA-Linux-ppc64le-580.142.run":                   {},
		"NVIDIA-Linux-x86_64-..run":                          {},
		"cuda_12.8.0_570.86.10_linux.run":                    {},
		"NVIDIA-Linux-x86_64-580.142.run.part.json.whatever": {},
	} {
		v, _, ending, ok := parseName(name)
		require.Equal(t, want.v != "", ok, name)
		if ok {
			require.Equal(t, want.v, v, name)
			require.Equal(t, want.ending, ending, name)
		}
	}
}

func TestTemplatesFollowNVIDIAsFolders(t *testing.T) {
	const xfree, tesla = "https://us.download.nvidia.com/XFree86/{os_arch}/{version}/{file}", "https://us.download.nvidia.com/tesla/{version}/{file}"
	for _, c := range []struct{ template, arch, url string }{
		{xfree, "x86_64", "https://us.download.nvidia.com/XFree86/Linux-x86_64/580.142/NVIDIA-Linux-x86_64-580.142.run"},
		{xfree, "aarch64", "https://us.download.nvidia.com/XFree86/aarch64/580.142/NVIDIA-Linux-aarch64-580.142.run"},
		{tesla, "x86_64", "https://us.download.nvidia.com/tesla/580.142/NVIDIA-Linux-x86_64-580.142.run"},
		{tesla, "aarch64", "https://us.download.nvidia.com/tesla/580.142/NVIDIA-Linux-aarch64-580.142.run"},
	} {
		u, err := fill(c.template, Want{Version: v2, Arch: c.arch})
		require.NoError(t, err)
		require.Equal(t, c.url, u.String())
	}
}
