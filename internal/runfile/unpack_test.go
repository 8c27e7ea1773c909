package runfile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func wantOf(file []byte) Want {
	return Want{Version: "550.163.01", Arch: "x86_64", SHA256: sum(file)}
}

func target(t testing.TB) string { return filepath.Join(t.TempDir(), "tree") }

func TestUnpackWritesThePayload(t *testing.T) {
	for name, pack := range map[string]func(testing.TB, []byte) []byte{
		"zstd": zstdOf, "xz": xzOf, "gzip": gzipOf, "bzip2": bzip2Driver,
	} {
		t.Run(name, func(t *testing.T) {
			file := spec{payload: pack(t, tarOf(t, driver...))}.build()
			dir := target(t)
			rep, err := Unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file))
			require.NoError(t, err)
			require.Equal(t, int64(len(file)), rep.Size)
			require.Equal(t, sum(file), rep.SHA256)
			require.Equal(t, "550.163.01", string(rep.Header.Version))
			require.Equal(t, 8, rep.Files, "5 files, 3 folders")
			got, err := os.ReadFile(filepath.Join(dir, "kernel/nvidia/nv.c"))
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("int x;\n", 99_000), string(got))
		})
	}
}

func TestModesAreMadeHarmless(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	dir := target(t)
	require.NoError(t, os.Mkdir(dir, 0o700)) // as MkdirTemp makes it
	_, err := Unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file))
	require.NoError(t, err)
	for name, mode := range map[string]fs.FileMode{
		"": 0o755 | fs.ModeDir, "nvidia-modprobe": 0o755, "nvidia-installer": 0o755, ".manifest": 0o644,
		"32": 0o755 | fs.ModeDir, "kernel/nvidia": 0o755 | fs.ModeDir, "32/libcuda.so.550.163.01": 0o644,
	} {
		i, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, i.Mode(), name)
	}
}

func TestCheckOnlyWritesNothing(t *testing.T) {
	file := spec{payload: []byte("not even compressed")}.build()
	rep, err := Unpack(t.Context(), bytes.NewReader(file), "", wantOf(file))
	require.NoError(t, err)
	require.Equal(t, sum(file), rep.SHA256)
	require.Zero(t, rep.Files)
}

func TestTrailingBytesBelongToTheSums(t *testing.T) {
	file := spec{payload: append(zstdOf(t, tarOf(t, driver...)), bytes.Repeat([]byte("trailing"), 1<<20)...)}.build()
	rep, err := Unpack(t.Context(), bytes.NewReader(file), target(t), wantOf(file))
	require.NoError(t, err)
	require.Equal(t, int64(len(file)), rep.Size)
	require.Equal(t, sum(file), rep.SHA256)
	file[len(file)-1] ^= 1
	_, err = Unpack(t.Context(), bytes.NewReader(file), target(t), Want{})
	require.ErrorContains(t, err, "md5")
}

func TestWrongContentIsNamed(t *testing.T) {
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	flipped := bytes.Clone(file)
	flipped[len(flipped)-40] ^= 1
	short := file[:len(file)-30]
	other := wantOf(file)
	other.Version = "580.76.05"
	pinned := wantOf(file)
	pinned.SHA256 = strings.ToUpper(sum(short))
	badMD5 := bytes.Replace(file, []byte("pkg_version=0"), []byte("pkg_version=1"), 1)
	for _, c := range []struct {
		name string
		file []byte
		want Want
		says string
	}{
		{"version", file, other, "the file is driver version 550.163.01, wanted 580.76.05"},
		{"page", []byte("<!DOCTYPE html>"), other, "starts with <!DOCTYPE html>: a web page, not a run file"},
		{"too short", short, wantOf(file), "payload ends after "},
		{"flipped", flipped, wantOf(file), "payload is broken"},
		{"sha256", file, pinned, "sha256 is " + sum(file) + ", wanted " + strings.ToUpper(sum(short))},
		{"sha256 of nonsense", file, Want{SHA256: "zz"}, "sha256 is " + sum(file) + ", wanted zz"},
		{"md5", badMD5, Want{}, "the file is damaged, its checksum is not that in its header (md5 "},
		{"payload missing", spec{}.build(), Want{}, "payload ends after"},
		{"payload unknown", spec{payload: []byte("\x04\x22\x4d\x18lz4")}.build(), Want{}, "payload starts with 04224d186c7a: neither zstd"},
		{"window", spec{payload: []byte("\x28\xb5\x2f\xfd\x00\x90" + strings.Repeat("x", 99))}.build(), Want{}, "zstd payload wants a window of 268 MB, more than 134 MB"},
		{"xz dictionary", spec{payload: bigDictionary(t)}.build(), Want{}, "xz payload wants a dictionary of 1610 MB"},
		{"no tar", spec{payload: zstdOf(t, bytes.Repeat([]byte("no tar"), 999))}.build(), Want{}, "payload is broken"},
		{"tar cut", spec{payload: zstdOf(t, tarOf(t, driver...)[:2000])}.build(), Want{}, "payload is broken"},
		{"no files", spec{payload: zstdOf(t, tarOf(t, driver[0]))}.build(), Want{}, "payload holds no files"},
	} {
		dir := target(t)
		_, err := Unpack(t.Context(), bytes.NewReader(c.file), dir, c.want)
		require.ErrorContains(t, err, c.says, c.name)
		require.ErrorIs(t, err, ErrContent, c.name)
	}
}

func TestWrongHeaderWritesNothing(t *testing.T) {
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	dir := target(t)
	_, err := Unpack(t.Context(), bytes.NewReader(file), dir, Want{Version: "1.2"})
	require.ErrorIs(t, err, ErrContent)
	require.NoDirExists(t, dir)
}

// failing is a file whose disk ends at a place.
type failing struct {
	file []byte
	at   int64
}

func (f failing) ReadAt(p []byte, at int64) (int, error) {
	if at >= f.at {
		return 0, syscall.EIO
	}
	return bytes.NewReader(f.file[:f.at]).ReadAt(p[:min(int64(len(p)), f.at-at)], at)
}

func TestDiskThatFailsIsNotWrongContent(t *testing.T) {
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	for cut := 0; cut < len(file); cut += 1 + len(file)/23 {
		for _, dir := range []string{"", target(t)} {
			_, err := Unpack(t.Context(), failing{file, int64(cut)}, dir, wantOf(file))
			require.ErrorIs(t, err, syscall.EIO, cut)
			require.NotErrorIs(t, err, ErrContent, cut)
		}
	}
}

func TestTruncationAnywhereIsNoticed(t *testing.T) {
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	for cut := 0; cut < len(file); cut += 1 + len(file)/51 {
		for _, w := range []Want{{}, wantOf(file)} {
			_, err := Unpack(t.Context(), bytes.NewReader(file[:cut]), target(t), w)
			require.ErrorIs(t, err, ErrContent, cut)
		}
	}
}

// ending is a file that ends a context when it is read at a place.
type ending struct {
	io.ReaderAt
	at  int64
	end func()
}

func (e ending) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) >= e.at {
		e.end()
	}
	return e.ReaderAt.ReadAt(p, at)
}

func TestCancelEndsIt(t *testing.T) {
	file := spec{payload: append(zstdOf(t, tarOf(t, driver...)), make([]byte, 4<<20)...)}.build()
	for _, at := range []int64{0, 300, int64(len(file)) - 20} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := Unpack(ctx, ending{bytes.NewReader(file), at, func() { cancel(errors.New("the task was stopped")) }}, target(t), wantOf(file))
		require.ErrorContains(t, err, "the task was stopped", at)
		require.NotErrorIs(t, err, ErrContent)
	}
}

func TestHostileMembersAreRefused(t *testing.T) {
	small := limits{members: 5, file: 1000, total: 2000, depth: 3}
	many := make([]member, 6)
	for i := range many {
		many[i] = member{name: string(rune('a' + i)), body: "x"}
	}
	for _, c := range []struct {
		name    string
		members []member
		says    string
	}{
		{"absolute", []member{{name: "/etc/cron.d/x"}}, "absolute name"},
		{"dots", []member{{name: "./a/../../x"}}, "leads out of its folder"},
		{"dots in a folder", []member{{name: "../x/", kind: tar.TypeDir}}, "leads out of its folder"},
		{"symlink", []member{{name: "a", kind: tar.TypeSymlink, link: "/etc"}}, "of tar type '2'"},
		{"hard link", []member{{name: "a", kind: tar.TypeLink, link: "/etc/shadow"}}, "of tar type '1'"},
		{"device", []member{{name: "a", kind: tar.TypeBlock}}, "of tar type '4'"},
		{"character device", []member{{name: "a", kind: tar.TypeChar}}, "of tar type '3'"},
		{"fifo", []member{{name: "a", kind: tar.TypeFifo}}, "of tar type '6'"},
		{"twice", []member{{name: "a", body: "1"}, {name: "./a", body: "2"}}, `"a" twice`},
		{"folder twice", []member{{name: "a/", kind: tar.TypeDir}, {name: "./a", kind: tar.TypeDir}}, `"a" twice`},
		{"file over folder", []member{{name: "a/b", body: "1"}, {name: "a", body: "2"}}, `"a" twice`},
		{"folder over file", []member{{name: "a", body: "1"}, {name: "a/", kind: tar.TypeDir}}, `"a" twice`},
		{"below a file", []member{{name: "a", body: "1"}, {name: "a/b", body: "2"}}, "below a file"},
		{"folder below a file", []member{{name: "a", body: "1"}, {name: "a/b/c", body: "2"}}, "below a file"},
		{"escape", []member{{name: "a\x1b[2J"}}, "control characters"},
		{"newline", []member{{name: "a\nb"}}, "control characters"},
		{"bytes", []member{{name: "a\xff"}}, "control characters"},
		{"long part", []member{{name: strings.Repeat("x", 256)}}, "more than 255 bytes"},
		{"long name", []member{{name: strings.Repeat("x/", 2100) + "y"}}, "a name of 4201 bytes"},
		{"deep", []member{{name: "a/b/c/d/e"}}, "more than 3 folders deep"},
		{"folder as file", []member{{name: ".", body: "x"}}, "name of a folder"},
		{"many", many, "more than 5 members"},
		{"many folders", []member{{name: "a/b/c/x"}, {name: "b/c/x"}}, "more than 5 members"},
		{"1 TB", []member{{name: "a", size: 1 << 40}}, "1099511 MB: more than 1000 bytes"},
		{"8 EB", []member{{name: "a", size: 1<<63 - 1}}, "more than 1000 bytes"},
		{"total", []member{{name: "a", body: strings.Repeat("x", 999)}, {name: "b", body: strings.Repeat("x", 999)}, {name: "c", size: 999}}, "more than 2000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := spec{payload: zstdOf(t, tarOf(t, c.members...))}.build()
			dir := filepath.Join(target(t), "in")
			require.NoError(t, os.Mkdir(filepath.Dir(dir), 0o755))
			rep, err := unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file), small)
			require.ErrorContains(t, err, c.says)
			require.ErrorIs(t, err, ErrContent)
			require.NotContains(t, err.Error(), "\x1b")
			require.LessOrEqual(t, rep.Unpacked, small.total)
			around, err := os.ReadDir(filepath.Dir(dir))
			require.NoError(t, err)
			require.Len(t, around, 1, "something was written beside the folder")
		})
	}
}

func TestSparseClaimIsRefused(t *testing.T) {
	// Old GNU format: type S, real size 1 TB in octal at 483.
	old := make([]byte, 512)
	copy(old, "big")
	copy(old[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(old[257:], "ustar  \x00")
	copy(old[483:], "17777777777\x00")
	total := 0
	for _, b := range old {
		total += int(b)
	}
	copy(old[148:], strings.ToLower(octal(total))+"\x00 ")
	for name, b := range map[string][]byte{
		"old": append(old, make([]byte, 1024)...),
		"pax": tarSparse(t),
	} {
		file := spec{payload: zstdOf(t, b)}.build()
		dir := target(t)
		_, err := Unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file))
		require.ErrorIs(t, err, ErrContent, name)
		require.NoFileExists(t, filepath.Join(dir, "big"), name)
	}
}

func octal(n int) string {
	s := []byte("000000")
	for i := 5; i >= 0; i-- {
		s[i] = byte('0' + n%8)
		n /= 8
	}
	return string(s)
}

// tarSparse writes a PAX sparse file by hand: archive/tar refuses to.
func tarSparse(t *testing.T) []byte {
	b := tarOf(t, member{name: "GNU/x.y.z", body: "31 GNU.sparse.realsize=999999999\n22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n23 GNU.sparse.map=0,10\n"},
		member{name: "big", body: "0123456789"})
	b[156] = 'x'
	copy(b[148:], "        ")
	total := 0
	for _, c := range b[:512] {
		total += int(c)
	}
	copy(b[148:], octal(total)+"\x00 ")
	return b
}

func TestBombEndsAtTheLimit(t *testing.T) {
	zeros := member{name: "zeros", size: 1 << 40}
	bomb := append(tarOf(t, zeros), make([]byte, 40<<20)...)
	for name, pack := range map[string]func(testing.TB, []byte) []byte{"gzip": gzipOf, "zstd": zstdOf} {
		file := spec{payload: pack(t, bomb)}.build()
		dir := target(t)
		_, err := Unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file))
		require.ErrorContains(t, err, "1099511 MB: more than 4294 MB", name)
		require.NoFileExists(t, filepath.Join(dir, "zeros"))
	}
	// Padding without end is no member, and is bounded as well.
	err := expand(bufioOf(gzipOf(t, make([]byte, 8<<20))), io.Discard, 4<<20)
	require.ErrorContains(t, err, "unpacks to more than 4 MB")
}

func TestFullDiskStaysVisible(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	small := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", small, "tmpfs", 0, "size=256k"))
	defer syscall.Unmount(small, syscall.MNT_DETACH)
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	_, err := Unpack(t.Context(), bytes.NewReader(file), filepath.Join(small, "tree"), wantOf(file))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NotErrorIs(t, err, ErrContent)
	require.ErrorContains(t, err, "nv.c")
}

func TestOnlyAnEmptyFolderIsFilled(t *testing.T) {
	file := spec{payload: zstdOf(t, tarOf(t, driver...))}.build()
	base := t.TempDir()
	full, link, plain := filepath.Join(base, "full"), filepath.Join(base, "link"), filepath.Join(base, "plain")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "x"), 0o755))
	require.NoError(t, os.Symlink(t.TempDir(), link))
	require.NoError(t, os.WriteFile(plain, nil, 0o644))
	for dir, says := range map[string]string{full: "is not empty", link: "is not a folder", plain: "is not a folder", base + "/a/b": "no such file"} {
		_, err := Unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file))
		require.ErrorContains(t, err, says)
		require.NotErrorIs(t, err, ErrContent)
	}
}

var fuzzLimits = limits{members: 20, file: 1 << 20, total: 2 << 20, depth: 4}

func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, driver[:len(driver)-1]...)) // a large seed makes a fuzzer slow
	f.Add(tarOf(f, member{name: "a", kind: tar.TypeSymlink, link: "/"}))
	f.Add(tarOf(f, member{name: "../a", body: "x"}))
	f.Add(tarOf(f, member{name: strings.Repeat("long/", 30) + "a", body: "x"}))
	f.Add(tarOf(f, member{name: "a", size: 1 << 40}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "tree")
		files, size, err := unpackTree(t.Context(), bytes.NewReader(b), dir, fuzzLimits)
		if err != nil && !errors.Is(err, errTar) {
			require.ErrorIs(t, err, ErrContent)
		}
		requireHarmless(t, dir, files, size)
	})
}

func FuzzUnpack(f *testing.F) {
	small := tarOf(f, driver[:len(driver)-1]...)
	f.Add(zstdOf(f, small))
	f.Add(gzipOf(f, small))
	f.Add(xzOf(f, small))
	f.Add(bigDictionary(f))
	f.Add(append(xzOf(f, small), bigDictionary(f)...))
	f.Add([]byte(xzEmpty))
	f.Add(append(zstdZeros(0, 1<<10), zstdZeros(1, 4<<10)...))
	f.Add(zstdSegment(1 << 40))
	f.Fuzz(func(t *testing.T, payload []byte) {
		file := spec{payload: payload}.build()
		dir := filepath.Join(t.TempDir(), "tree")
		rep, err := unpack(t.Context(), bytes.NewReader(file), dir, wantOf(file), fuzzLimits)
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
		}
		requireHarmless(t, dir, rep.Files, rep.Unpacked)
	})
}

// requireHarmless holds a tree against the limits and against what was reported of it.
func requireHarmless(t *testing.T, dir string, files int, size int64) {
	var foundFiles int
	var foundSize int64
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return nil
		}
		i, err := d.Info()
		require.NoError(t, err)
		require.True(t, i.IsDir() || i.Mode().IsRegular(), i.Mode())
		require.Zero(t, i.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky|0o022))
		foundFiles++
		if !i.IsDir() {
			foundSize += i.Size()
		}
		return nil
	})
	require.LessOrEqual(t, foundFiles, fuzzLimits.members)
	require.LessOrEqual(t, foundSize, fuzzLimits.total)
	require.Equal(t, foundSize, size)
	require.Equal(t, foundFiles, files)
}
