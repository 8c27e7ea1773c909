package cache

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lock"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// put lays a file into the cache as somebody does by hand.
func put(t *testing.T, c *Cache, b []byte) string {
	t.Helper()
	require.NoError(t, CheckDir(c.Dir))
	run := c.paths(v1, "x86_64").run
	require.NoError(t, os.WriteFile(run, b, 0o644))
	return run
}

func TestFilePutThereByHandIsAdopted(t *testing.T) {
	c, said := newCache(t)
	b := sample(t, v1)
	put(t, c, b)
	e := get(t, c, want(v1))
	require.False(t, e.Fetched)
	require.Equal(t, byHeader, e.Meta.Verified)
	require.Empty(t, e.Meta.URL)
	require.FileExists(t, filepath.Join(e.Tree, ".manifest"))
	require.Contains(t, said.text(), "verified and unpacked")
	e.Release()
	said.lines = nil
	get(t, c, want(v1))
	require.Empty(t, said.text(), "verified once")
	requireClean(t, c, v1)
}

func TestChecksumBesideTheFileCounts(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	run := put(t, c, b)
	require.NoError(t, os.WriteFile(run+".sha256sum", []byte(sumOf(b)+"  "+runName+"\n"), 0o644))
	w := want(v1)
	w.RequireChecksum = true
	require.Equal(t, bySum, get(t, c, w).Meta.Verified)
}

func TestRequiredChecksumOfAnAdoptedFileComesFromTheURL(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	put(t, c, b)
	s := serve(t, true).offer(v1, b)
	w := want(v1, s.template())
	w.RequireChecksum = true
	require.Equal(t, bySum, get(t, c, w).Meta.Verified)
	require.Zero(t, s.count(runName), "the file itself is there")
}

func TestWrongFilePutThereIsSetAsideAndFetched(t *testing.T) {
	good := sample(t, v1)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1000] ^= 1
	for name, c := range map[string]struct {
		b    []byte
		says string
	}{
		"other version": {sample(t, v2), "580.142"},
		"of equal size": {relabel(good, "580.163.01"), "driver version 580.163.01"},
		"flipped byte":  {flipped, "the file is damaged|payload is broken"},
		"cut off":       {good[:len(good)-1], "payload ends|the file is damaged"},
		"empty":         {[]byte{}, "empty"},
		"text":          {[]byte("hello\n"), "not a run file"},
	} {
		t.Run(name, func(t *testing.T) {
			cache, said := newCache(t)
			run := put(t, cache, c.b)
			before, err := os.Stat(run)
			require.NoError(t, err)
			_, err = cache.Get(testContext(t), want(v1))
			require.ErrorContains(t, err, run+" is refused: ")
			require.Regexp(t, c.says, err.Error())
			require.ErrorContains(t, err, "no URL is configured")
			require.Contains(t, hint.Of(err), "pve-nvidia-hook cache add FILE")
			p := cache.paths(v1, "x86_64")
			after, err := os.Stat(p.refused)
			require.NoError(t, err)
			require.True(t, os.SameFile(before, after))
			require.NoFileExists(t, run)
			it := list(t, cache)[0]
			require.Equal(t, []string{Refused, p.refused}, []string{it.State, it.Path})
			require.Regexp(t, c.says, it.Damage)

			said.lines = nil
			require.True(t, get(t, cache, want(v1, serve(t, true).offer(v1, good).template())).Fetched)
			requireClean(t, cache, v1)
		})
	}
}

// A checksum that somebody has put there holds for what is fetched, too.
func TestWrongChecksumPutThereIsNotPassedOver(t *testing.T) {
	good := sample(t, v1)
	for text, says := range map[string]string{
		sumOf(nil) + "  " + runName + "\n": "sha256 is " + sumOf(good) + ", wanted " + sumOf(nil) + " (from its .sha256sum)",
		"x":                                "not the output of sha256sum",
	} {
		c, _ := newCache(t)
		run := put(t, c, good)
		require.NoError(t, os.WriteFile(run+".sha256sum", []byte(text), 0o644))
		w := want(v1, serve(t, true).offer(v1, good).template())
		_, err := c.Get(testContext(t), w)
		require.ErrorContains(t, err, says)
		_ = os.Remove(run)
		_, err = c.Get(testContext(t), w)
		require.ErrorContains(t, err, says)
		require.NoFileExists(t, run)
	}
}

// A pin is of one container's settings: the file may be right for others.
func TestFileThatIsNotThePinnedOneStays(t *testing.T) {
	c, _ := newCache(t)
	good := sample(t, v1)
	run := put(t, c, good)
	w := want(v1)
	w.SHA256 = sumOf(nil)
	_, err := c.Get(testContext(t), w)
	require.ErrorContains(t, err, run+" has the sha256 "+sumOf(good)+", but "+sumOf(nil)+" is pinned")
	get(t, c, want(v1)).Release()
	w.SHA256 = sumOf(good)
	require.Equal(t, byPin, get(t, c, w).Meta.Verified)
}

func TestOddFilesAreRefused(t *testing.T) {
	b := sample(t, v1)
	for name, spoil := range map[string]func(run string) error{
		"link":   func(run string) error { return firstError(os.Rename(run, run+"2"), os.Symlink(run+"2", run)) },
		"folder": func(run string) error { return firstError(os.Remove(run), os.Mkdir(run, 0o755)) },
		"owner":  func(run string) error { return os.Chown(run, 1000, 1000) },
	} {
		c, _ := newCache(t)
		run := put(t, c, b)
		require.NoError(t, spoil(run))
		_, err := c.Get(testContext(t), want(v1))
		require.ErrorContains(t, err, run+" is refused", name)
	}
}

// The folder may have been open to others once, who could write metadata as well.
func TestMetadataOfOthersProvesNothing(t *testing.T) {
	for name, spoil := range map[string]func(meta string) error{
		"owner":     func(meta string) error { return os.Chown(meta, 1000, 0) },
		"mode":      func(meta string) error { return os.Chmod(meta, 0o666) },
		"link":      func(meta string) error { return firstError(os.Rename(meta, meta+"2"), os.Symlink(meta+"2", meta)) },
		"all of it": func(meta string) error { return exec.Command("chown", "-R", "1000", filepath.Dir(meta)+"/.").Run() },
	} {
		t.Run(name, func(t *testing.T) {
			c, said := newCache(t)
			e := get(t, c, want(v1, serve(t, true).offer(v1, sample(t, v1)).template()))
			e.Release()
			said.lines = nil
			require.NoError(t, spoil(c.paths(v1, "x86_64").meta))
			require.NoError(t, os.Chown(c.Dir, 0, 0))
			if name == "all of it" {
				_, err := c.Get(testContext(t), want(v1))
				require.ErrorContains(t, err, e.RunFile+" is refused: it belongs to uid 1000")
				return
			}
			get(t, c, want(v1))
			require.Contains(t, said.text(), "verified and unpacked", "as a file that was put there by hand")
		})
	}
}

func TestExchangedFileIsNoticed(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	e := get(t, c, want(v1, s.template()))
	e.Release()
	require.NoError(t, os.Remove(e.RunFile))
	put(t, c, sample(t, v2))
	_, err := c.Get(testContext(t), want(v1))
	require.ErrorContains(t, err, "is refused")
	require.FileExists(t, c.paths(v1, "x86_64").refused)
	require.True(t, get(t, c, want(v1, s.template())).Fetched)
}

func TestAddCopiesAndVerifies(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	from := filepath.Join(t.TempDir(), "driver.run")
	require.NoError(t, os.WriteFile(from, b, 0o600))
	it, err := c.Add(testContext(t), from, Want{Tree: true})
	require.NoError(t, err)
	require.Equal(t, Item{Version: v1, Arch: "x86_64", Path: filepath.Join(c.Dir, runName), State: Ready, Size: int64(len(b)), TreeSize: it.TreeSize,
		SHA256: sumOf(b), Verified: byHeader, At: it.At, LastUsed: it.LastUsed}, it)
	require.NotZero(t, it.TreeSize)
	requireClean(t, c, v1)
	e := get(t, c, want(v1))
	require.False(t, e.Fetched)
	e.Release()

	_, err = c.Add(testContext(t), from, Want{Version: v2})
	require.ErrorContains(t, err, "580.142")
	require.NoError(t, os.WriteFile(from, b[:len(b)-10], 0o600))
	_, err = c.Add(testContext(t), from, Want{})
	require.ErrorContains(t, err, from)
	require.NoError(t, os.WriteFile(from, b, 0o600))
	require.NoError(t, os.WriteFile(from+".sha256sum", []byte(sumOf(nil)+"  "+runName+"\n"), 0o600))
	_, err = c.Add(testContext(t), from, Want{})
	require.ErrorContains(t, err, "sha256")
	requireClean(t, c, v1)
	get(t, c, want(v1)) // what was there is still there
}

func TestAddOfADamagedFileSaysWhatToDo(t *testing.T) {
	c, _ := newCache(t)
	damaged := bytes.Clone(sample(t, v1))
	damaged[len(damaged)-1000] ^= 1
	from := filepath.Join(t.TempDir(), runName)
	require.NoError(t, os.WriteFile(from, damaged, 0o644))
	_, err := c.Add(testContext(t), from, Want{})
	require.ErrorContains(t, err, "the file is damaged")
	require.Equal(t, "download it again", hint.Of(err))
}

func TestAddOfTheSameFileKeepsWhatWasProvedOfIt(t *testing.T) {
	c, said := newCache(t)
	b := sample(t, v1)
	e := get(t, c, want(v1, serve(t, true).offer(v1, b).template()))
	e.Release()
	from := filepath.Join(t.TempDir(), "driver.run")
	require.NoError(t, os.WriteFile(from, b, 0o600))
	it, err := c.Add(testContext(t), from, Want{Tree: true})
	require.NoError(t, err)
	require.Equal(t, bySum, it.Verified)
	require.Equal(t, e.Meta.URL, it.URL)
	require.Contains(t, said.text(), runName+" was there already")

	require.NoError(t, os.WriteFile(from, []byte("# Read me\n"), 0o600))
	_, err = c.Add(testContext(t), from, Want{})
	require.Contains(t, hint.Of(err), "run file of NVIDIA's")
}

func TestAddHoldsTheFileToItsPin(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	from := filepath.Join(t.TempDir(), "driver.run")
	require.NoError(t, os.WriteFile(from, b, 0o600))
	h, err := HeaderOf(from)
	require.NoError(t, err)
	require.Equal(t, v1, h.Version)
	w := Want{Version: h.Version, SHA256: sumOf(nil), RequireChecksum: true}
	_, err = c.Add(testContext(t), from, w)
	require.ErrorContains(t, err, "wanted "+sumOf(nil))
	require.Contains(t, hint.Of(err), "driver.sha256")
	requireClean(t, c)
	w.SHA256 = sumOf(b)
	require.NoError(t, os.WriteFile(from+".sha256sum", []byte("not looked at"), 0o600))
	it, err := c.Add(testContext(t), from, w)
	require.NoError(t, err)
	require.Equal(t, byPin, it.Verified)

	_, err = HeaderOf(from + ".sha256sum")
	require.ErrorContains(t, err, "add "+from)
	require.Contains(t, hint.Of(err), "run file of NVIDIA's")
}

func TestAddOfTheFileInPlaceVerifiesIt(t *testing.T) {
	c, _ := newCache(t)
	run := put(t, c, sample(t, v1))
	it, err := c.Add(testContext(t), run, Want{})
	require.NoError(t, err)
	require.Equal(t, Ready, it.State)
}

func TestVerifyFindsDamageAndTheNextUseHeals(t *testing.T) {
	c, _ := newCache(t)
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	e := get(t, c, want(v1, s.template()))
	it, err := c.Verify(testContext(t), v1, "x86_64")
	require.NoError(t, err, "also while it is used")
	require.Equal(t, Ready, it.State)
	e.Release()

	st, err := os.Stat(e.RunFile)
	require.NoError(t, err)
	f, err := os.OpenFile(e.RunFile, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{^b[len(b)-50]}, int64(len(b)-50))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(e.RunFile, st.ModTime(), st.ModTime()), "as a failing disk does it: unseen")
	require.Equal(t, Ready, list(t, c)[0].State)

	it, err = c.Verify(testContext(t), v1, "x86_64")
	require.ErrorContains(t, err, "is refused")
	require.Equal(t, Refused, it.State)
	require.Contains(t, it.Damage, "sha256")
	e = get(t, c, want(v1, s.template()))
	require.True(t, e.Fetched)
	requireClean(t, c, v1)
	e.Release()

	require.NoError(t, os.Truncate(filepath.Join(e.Tree, ".manifest"), 3))
	it, err = c.Verify(testContext(t), v1, "x86_64")
	require.ErrorContains(t, err, "is incomplete")
	require.Zero(t, it.TreeSize)
	e = get(t, c, want(v1, s.template()))
	require.False(t, e.Fetched)
	_, err = c.Verify(testContext(t), v1, "x86_64")
	require.NoError(t, err)
	_, err = c.Verify(testContext(t), v2, "x86_64")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func list(t *testing.T, c *Cache) []Item {
	t.Helper()
	items, err := c.List()
	require.NoError(t, err)
	return items
}

func TestListTellsWhatIsThere(t *testing.T) {
	c, _ := newCache(t)
	require.Empty(t, list(t, c), "no folder, no items")
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	e := get(t, c, want(v1, s.template()))
	p := c.paths(v2, "x86_64")
	require.NoError(t, os.WriteFile(p.part, []byte("half"), 0o644))
	require.NoError(t, os.WriteFile(c.paths("470.256.02", "aarch64").run, []byte("byhand"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(c.Dir, "README"), nil, 0o644))
	items := list(t, c)
	require.Len(t, items, 3)
	require.Equal(t, []any{v2, Partial, int64(4), false}, []any{items[0].Version, items[0].State, items[0].Size, items[0].InUse})
	require.Equal(t, []any{v1, Ready, int64(len(b)), true, bySum, e.Meta.Unpacked},
		[]any{items[1].Version, items[1].State, items[1].Size, items[1].InUse, items[1].Verified, items[1].TreeSize})
	require.Equal(t, []any{version.Driver("470.256.02"), "aarch64", Unverified}, []any{items[2].Version, items[2].Arch, items[2].State})
	e.Release()
	require.False(t, list(t, c)[1].InUse)
}

func TestPruneKeepsWhatIsUsedWantedOrRecent(t *testing.T) {
	c, _ := newCache(t)
	versions := []version.Driver{"470.1.01", "535.1.01", "550.1.01", "560.1.01", "570.1.01"}
	b := sample(t, v1)
	require.NoError(t, CheckDir(c.Dir))
	now := time.Now()
	for i, v := range versions { // the later in the list, the longer ago used
		p := c.paths(v, "x86_64")
		require.NoError(t, os.WriteFile(p.run, b, 0o644))
		require.NoError(t, os.Mkdir(p.tree, 0o755))
		st, err := os.Stat(p.run)
		require.NoError(t, err)
		m := Meta{SHA256: sumOf(b), Verified: byHeader}
		m.describe(st)
		require.NoError(t, writeJSON(p.meta, m))
		used := now.Add(-time.Duration(i) * time.Hour)
		require.NoError(t, os.Chtimes(p.meta, used, used))
	}
	require.NoError(t, os.WriteFile(c.paths(v2, "x86_64").part, nil, 0o644))
	held, err := lock.Take(testContext(t), c.paths("560.1.01", "x86_64").lock, lock.Options{Shared: true})
	require.NoError(t, err)

	gone, err := c.Prune(testContext(t), 1, func(v version.Driver) bool { return v == "550.1.01" })
	require.NoError(t, err)
	names := func(items []Item) (v []version.Driver) {
		for _, it := range items {
			v = append(v, it.Version)
		}
		return v
	}
	require.ElementsMatch(t, []version.Driver{"535.1.01", "570.1.01", v2}, names(gone))
	require.ElementsMatch(t, []version.Driver{"470.1.01", "550.1.01", "560.1.01"}, names(list(t, c)))
	it, _ := c.item("560.1.01", "x86_64")
	require.ErrorIs(t, c.Remove(testContext(t), it), lock.ErrBusy)
	require.NoError(t, held.Release())
	it.State = Partial // when it was listed
	require.ErrorIs(t, c.Remove(testContext(t), it), lock.ErrBusy, "it is ready by now")
	_, err = c.Prune(testContext(t), 0, nil)
	require.NoError(t, err)
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A refused file is the newest by its time, and must not take the place of a good one.
func TestRefusedTakesNoPlaceAmongTheOnesKept(t *testing.T) {
	now := time.Now()
	items := []Item{
		{Version: v1, State: Ready, LastUsed: now.Add(-time.Hour)},
		{Version: v2, State: Refused, LastUsed: now},
		{Version: "470.1", State: Unverified, LastUsed: now.Add(-2 * time.Hour)},
		{Version: "535.1", State: Unverified, LastUsed: now.Add(-2 * time.Hour)},
	}
	gone := Prunable(items, 1, func(v version.Driver) bool { return v == v2 || v == "535.1" })
	require.Equal(t, items[1:3], gone, "a refused one goes, wanted or not: it is fetched again")

	c, _ := newCache(t)
	put(t, c, []byte("hello\n"))
	_, err := c.Verify(testContext(t), v1, "x86_64")
	require.Error(t, err)
	items, err = c.Prune(testContext(t), 1, func(version.Driver) bool { return true })
	require.NoError(t, err)
	require.Len(t, items, 1)
	left, err := os.ReadDir(c.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestVerifySetsAsideWhateverIsWrong(t *testing.T) {
	good := sample(t, v1)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1000] ^= 1
	for name, b := range map[string][]byte{"other version": sample(t, v2), "flipped byte": flipped, "empty": {}, "text": []byte("hello\n")} {
		t.Run(name, func(t *testing.T) {
			c, _ := newCache(t)
			s := serve(t, true).offer(v1, good)
			run := put(t, c, b)
			for range 2 {
				it, err := c.Verify(testContext(t), v1, "x86_64")
				require.ErrorContains(t, err, run+" is refused")
				require.Contains(t, hint.Of(err), "the next start fetches it again")
				require.Equal(t, Refused, it.State)
				require.NotContains(t, it.Damage, runName, "its name stands before it")
				require.Equal(t, []Item{it}, list(t, c))
			}
			put(t, c, good)
			require.Equal(t, Unverified, list(t, c)[0].State)
			it, err := c.Verify(testContext(t), v1, "x86_64")
			require.NoError(t, err)
			require.Equal(t, Ready, it.State)
			requireClean(t, c, v1)

			require.NoError(t, os.WriteFile(run, b, 0o644))
			require.Equal(t, Unverified, list(t, c)[0].State)
			it, err = c.Verify(testContext(t), v1, "x86_64")
			require.Error(t, err)
			require.Equal(t, Refused, it.State)
			e := get(t, c, want(v1, s.template()))
			require.True(t, e.Fetched)
			e.Release()
			require.Equal(t, Ready, list(t, c)[0].State)
			requireClean(t, c, v1)
		})
	}
}

// The header's own MD5 says nothing of the first lines.
func TestAFileFoundWrongByItsSumIsNotTakenByItsHeader(t *testing.T) {
	c, _ := newCache(t)
	good := sample(t, v1)
	src := filepath.Join(t.TempDir(), runName)
	require.NoError(t, os.WriteFile(src, good, 0o644))
	require.NoError(t, os.WriteFile(src+".sha256sum", []byte(sumOf(good)+"  "+runName+"\n"), 0o644))
	it, err := c.Add(testContext(t), src, want(v1))
	require.NoError(t, err)
	bad := bytes.Clone(good)
	at := bytes.IndexByte(bad, '\n') + 1 // within its second line
	bad[at+2] ^= 1
	st, err := os.Stat(it.Path)
	require.NoError(t, err)
	f, err := os.OpenFile(it.Path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bad, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(it.Path, st.ModTime(), st.ModTime()))
	for range 2 {
		it, err = c.Verify(testContext(t), v1, "x86_64")
		require.ErrorContains(t, err, "sha256")
		require.Equal(t, Refused, it.State)
	}
	require.NoFileExists(t, c.paths(v1, "x86_64").run)
}

// It may have changed where the header's MD5 does not see it.
func TestAFileThatChangedIsHeldToTheChecksumThatItHad(t *testing.T) {
	c, _ := newCache(t)
	good := sample(t, v1)
	run := put(t, c, good)
	get(t, c, want(v1)).Release()
	bad := bytes.Clone(good)
	bad[bytes.IndexByte(bad, '\n')+3] ^= 1
	require.NoError(t, os.WriteFile(run, bad, 0o644))
	_, err := c.Get(testContext(t), want(v1))
	require.ErrorContains(t, err, "sha256 is")
}
