package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// process is the test binary as one process that gets a run file.
func process(t *testing.T, c *Cache, s *server, v version.Driver) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(job{c.Dir, s.template(), v, true})
	require.NoError(t, err)
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), asProcess+"="+string(text))
	return cmd
}

func TestTenStartsOneDownload(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1)).offer(v2, sample(t, v2))
	var all sync.WaitGroup
	errs := make(chan error, 20)
	for i := range 10 {
		v := []version.Driver{v1, v2}[i%5/4] // two of the processes and goroutines want another version
		cmd := process(t, c, s, v)
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				errs <- fmt.Errorf("process: %w: %s", err, out)
			}
		})
		all.Go(func() {
			one := quick(c.Dir)
			e, err := one.Get(testContext(t), want(v, s.template()))
			if err != nil {
				errs <- err
				return
			}
			e.Release()
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	require.Equal(t, 1, s.count(FileName(v1, "x86_64")))
	require.Equal(t, 1, s.count(FileName(v2, "x86_64")))
	requireClean(t, c, v1, v2)
}

func TestOneUserDoesNotKeepOthersFromUsing(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	held := get(t, c, want(v1, s.template()))
	c.LockTimeout = time.Second
	for range 3 {
		get(t, c, want(v1, s.template()))
	}
	held.Release()
}

func TestKilledDownloadIsResumedByTheNext(t *testing.T) {
	b := sample(t, v1)
	c, said := newCache(t)
	s := serve(t, true).offer(v1, b)
	var ranges []string
	sent := make(chan struct{})
	answer := onRun(func(w http.ResponseWriter, r *http.Request, n int) bool {
		s.mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		s.mu.Unlock()
		if n > 1 {
			return false
		}
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:len(b)/2])
		w.(http.Flusher).Flush()
		close(sent)
		<-r.Context().Done()
		return true
	})
	s.mu.Lock()
	s.fault = answer
	s.mu.Unlock()
	p := c.paths(v1, "x86_64")
	killed := process(t, c, s, v1)
	require.NoError(t, killed.Start())
	<-sent
	require.Eventually(t, func() bool {
		st, err := os.Stat(p.part)
		return err == nil && st.Size() == int64(len(b)/2)
	}, time.Minute, time.Millisecond)
	require.NoError(t, killed.Process.Signal(syscall.SIGKILL))
	_ = killed.Wait()
	require.NoFileExists(t, p.run)
	require.NoDirExists(t, p.tree)

	out, err := process(t, c, s, v1).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "got true published sha256\n", string(out))
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, []string{"", fmt.Sprintf("bytes=%d-", len(b)/2)}, ranges, said.text())
	requireClean(t, c, v1)
}

// A run that dies at any moment leaves nothing under a final name but whole,
// verified things, and the next run ends well.
func TestKilledAtAnyMomentHeals(t *testing.T) {
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	start := time.Now()
	c, _ := newCache(t)
	require.NoError(t, process(t, c, s, v1).Run())
	took := time.Since(start)
	moments := 12
	for i := range moments {
		c, _ := newCache(t)
		p := c.paths(v1, "x86_64")
		cmd := process(t, c, s, v1)
		require.NoError(t, cmd.Start())
		time.Sleep(took * time.Duration(i+1) / time.Duration(moments))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if got, err := os.ReadFile(p.run); err == nil {
			require.Equal(t, sumOf(b), sumOf(got))
		}
		if m, err := readMeta(p.meta); err == nil {
			require.True(t, c.look(p).tree, "%+v", m)
		}
		e := get(t, c, want(v1, s.template()))
		require.Equal(t, sumOf(b), e.Meta.SHA256)
		files, _, err := count(e.Tree)
		require.NoError(t, err)
		require.Equal(t, e.Meta.Files, files)
		requireClean(t, c, v1)
	}
}

func TestLeftoversOfOtherVersionsAreSwept(t *testing.T) {
	c, _ := newCache(t)
	s := serve(t, true).offer(v1, sample(t, v1))
	require.NoError(t, CheckDir(c.Dir))
	p := c.paths(v2, "x86_64")
	require.NoError(t, os.MkdirAll(p.newTree+"/sub", 0o755))
	require.NoError(t, os.MkdirAll(p.oldTree, 0o755))
	require.NoError(t, os.WriteFile(p.part, []byte("x"), 0o644))
	stray := filepath.Join(c.Dir, ".NVIDIA-Linux-x86_64-580.142.json123")
	require.NoError(t, os.WriteFile(stray, nil, 0o644))
	mine := []string{filepath.Join(c.Dir, "notes.txt"), filepath.Join(c.Dir, ".hidden")}
	for _, n := range mine {
		require.NoError(t, os.WriteFile(n, nil, 0o644))
	}
	long := time.Now().Add(-8 * 24 * time.Hour)
	for _, n := range append([]string{stray, p.part}, mine...) {
		require.NoError(t, os.Chtimes(n, long, long))
	}
	get(t, c, want(v1, s.template()))
	for _, n := range mine {
		require.FileExists(t, n)
		require.NoError(t, os.Remove(n))
	}
	requireClean(t, c, v1)
}

// small mounts a tmpfs of so many bytes as a cache folder.
func small(t *testing.T, bytes int) *Cache {
	t.Helper()
	c, _ := newCache(t)
	require.NoError(t, CheckDir(c.Dir))
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	require.NoError(t, unix.Mount("tmpfs", c.Dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", bytes)))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(c.Dir, unix.MNT_DETACH)) })
	return c
}

func TestFullDiskIsToldBeforeTheDownload(t *testing.T) {
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	c := small(t, len(b)*3)
	_, err := c.Get(testContext(t), want(v1, s.template(), s.template()))
	require.ErrorContains(t, err, "needs")
	require.ErrorContains(t, err, "free")
	require.NotEmpty(t, hint.Of(err))
	require.Equal(t, 1, s.count(runName), "no other URL helps")
	requireClean(t, c)
	w := want(v1, s.template())
	w.Tree = false
	get(t, c, w).Release()
}

func TestDiskThatFillsUpLeavesNothing(t *testing.T) {
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	s.fault = onRun(func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.(http.Flusher).Flush() // of unknown length, so that room cannot be looked for before
		_, _ = w.Write(b)
		return true
	})
	for _, room := range []int{len(b) / 2, len(b) * 5 / 4} { // run file and tree do not fit
		c := small(t, room)
		_, err := c.Get(testContext(t), want(v1, s.template()))
		require.ErrorIs(t, err, unix.ENOSPC)
		require.ErrorContains(t, err, "no room in the cache folder")
		require.Contains(t, hint.Of(err), "cache.dir")
		requireClean(t, c)
	}
}

func TestReadOnlyFolderServesWhatItHas(t *testing.T) {
	b := sample(t, v1)
	s := serve(t, true).offer(v1, b)
	c := small(t, 64<<20)
	e := get(t, c, want(v1, s.template()))
	e.Release()
	require.NoError(t, unix.Mount("", c.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	get(t, c, want(v1, s.template())).Release()
	_, err := c.Get(testContext(t), want(v2, s.template()))
	require.ErrorIs(t, err, unix.EROFS)
	require.ErrorContains(t, err, "cannot be written")
	require.NotEmpty(t, hint.Of(err))
}

func TestFoldersOfOthersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		says string
	}{
		"others may write":  {func(d string) error { return os.Chmod(d, 0o757) }, "mode 0757"},
		"group may write":   {func(d string) error { return os.Chmod(d, 0o775) }, "mode 0775"},
		"of a user":         {func(d string) error { return os.Chown(d, 1000, 0) }, "belongs to uid 1000"},
		"below a user's":    {func(d string) error { return os.Chown(filepath.Dir(d), 1000, 0) }, "belongs to uid 1000"},
		"below everybody's": {func(d string) error { return os.Chmod(filepath.Dir(d), 0o777) }, "anybody could replace"},
		"a file": {func(d string) error {
			return firstError(os.Remove(d), os.WriteFile(d, nil, 0o644))
		}, "is not a folder"},
		"a user's link": {func(d string) error {
			return firstError(os.Rename(d, d+"2"), os.Symlink(d+"2", d), os.Lchown(d, 1000, 0))
		}, "belongs to uid 1000"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			cache, _ := newCache(t)
			require.NoError(t, CheckDir(cache.Dir))
			require.NoError(t, c.make(cache.Dir))
			_, err := cache.Get(context.Background(), want(v1, "https://127.0.0.1:1/{file}"))
			require.ErrorContains(t, err, c.says)
		})
	}
	t.Run("root's-link-is-followed", func(t *testing.T) {
		cache, _ := newCache(t)
		require.NoError(t, CheckDir(cache.Dir+"2"))
		require.NoError(t, os.Symlink(cache.Dir+"2", cache.Dir))
		require.NoError(t, CheckDir(cache.Dir))
	})
	require.ErrorContains(t, CheckDir("cache"), "absolute")
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestFilesGetTheirModeInPlaceOfAnother(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Chmod(file, 0o666))
	require.NoError(t, writeFile(file, []byte("{}")))
	st, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), st.Mode().Perm())
}
