package driver

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var loaderArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]

// loaderRoot is a small root with two copies of a library, one in a folder that
// ld.so.conf.d names first. It returns the library's name.
func loaderRoot(t *testing.T) (root, name string) {
	t.Helper()
	const pattern = "/lib/*-linux-gnu/libz.so.1"
	found, _ := filepath.Glob(pattern)
	ldconfig, err := exec.LookPath("/sbin/ldconfig")
	if err != nil || len(found) == 0 {
		t.Skip("needs ldconfig and ", pattern)
	}
	library, err := os.ReadFile(found[0])
	require.NoError(t, err)
	root = t.TempDir()
	for _, file := range []string{"opt/compat/libz.so.1.0.1", "usr/lib/" + loaderArch + "-linux-gnu/libz.so.1.0.2"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, file), library, 0o755))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/ld.so.conf.d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/ld.so.conf"), []byte("include /etc/ld.so.conf.d/*.conf\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/ld.so.conf.d/000_compat.conf"), []byte("/opt/compat\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/ld.so.conf.d/x.conf"), []byte("/usr/lib/"+loaderArch+"-linux-gnu\n"), 0o644))
	run(t, ldconfig, "-r", root)
	return root, "libz.so.1"
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// What ldconfig writes is read as ldconfig -p reads it, in each of its forms.
func TestCacheOfTheLoaderIsReadAsLdconfigReadsIt(t *testing.T) {
	root, name := loaderRoot(t)
	for _, form := range []string{"new", "compat"} {
		run(t, "/sbin/ldconfig", "-r", root, "-c", form)
		raw, err := os.ReadFile(filepath.Join(root, "etc/ld.so.cache"))
		require.NoError(t, err)
		require.Equal(t, form == "compat", strings.HasPrefix(string(raw), oldMagic))
		found, err := inLoaderCache(raw, name, loaderArch)
		require.NoError(t, err)
		var want []string
		for line := range strings.Lines(run(t, "/sbin/ldconfig", "-r", root, "-p")) {
			if before, file, ok := strings.Cut(strings.TrimSpace(line), " => "); ok && strings.HasPrefix(before, name+" ") {
				want = append(want, file)
			}
		}
		require.Len(t, want, 2)
		require.Equal(t, want, found, form)
	}

	// And all of this machine's own, which has hundreds.
	raw, err := os.ReadFile(loaderCache)
	require.NoError(t, err)
	for line := range strings.Lines(run(t, "/sbin/ldconfig", "-p")) {
		before, file, ok := strings.Cut(strings.TrimSpace(line), " => ")
		name, flags, _ := strings.Cut(before, " ")
		if !ok || flags != "(libc6,x86-64)" && flags != "(libc6,AArch64)" {
			continue
		}
		found, err := inLoaderCache(raw, name, loaderArch)
		require.NoError(t, err)
		require.Contains(t, found, file)
	}
}

// The first one is what the loader gives to a program.
func TestFirstOfTheCacheIsWhatTheLoaderTakes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	root, name := loaderRoot(t)
	out := run(t, "ldd", "/bin/true")
	for word := range strings.FieldsSeq(out) {
		if !filepath.IsAbs(word) {
			continue
		}
		data, err := os.ReadFile(word)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(word)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, word), data, 0o755))
	}
	data, err := os.ReadFile("/bin/true")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/true"), data, 0o755))
	run(t, "/sbin/ldconfig", "-r", root)

	raw, err := os.ReadFile(filepath.Join(root, "etc/ld.so.cache"))
	require.NoError(t, err)
	found, err := inLoaderCache(raw, name, loaderArch)
	require.NoError(t, err)
	chroot := exec.Command("chroot", root, "/bin/true")
	chroot.Env = []string{"LD_PRELOAD=" + name, "LD_DEBUG=files"}
	said, err := chroot.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Contains(t, string(said), "calling init: "+found[0]+"\n")
	require.Equal(t, "/opt/compat/libz.so.1", found[0])
}

func TestLibrariesOfTheDriverAreToldFromOthers(t *testing.T) {
	for file, want := range map[string]bool{
		"/usr/lib/x86_64-linux-gnu/libcuda.so.1": true, "/lib/x86_64-linux-gnu/libcuda.so.1": true, "/usr/lib64/libcuda.so.1": true, "/usr/lib/libcuda.so.1": true,
		"/usr/local/cuda/compat/libcuda.so.1": false, "/usr/lib/aarch64-linux-gnu/libcuda.so.1": false, "/usr/lib/x86_64-linux-gnu/x/libcuda.so.1": false,
	} {
		require.Equal(t, want, DriverFolder(file, "x86_64"), file)
	}
}

// The cache is the container's: whatever stands in it, reading ends, and no more
// than it holds comes out.
func FuzzLoaderCache(f *testing.F) {
	f.Add(loaderCacheOf("libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.1", "/opt/libcuda.so.1", "libz.so.1", "/lib/libz.so.1"))
	f.Add(append(append([]byte(oldMagic+"\x00"), 1, 0, 0, 0), make([]byte, 16)...))
	f.Add([]byte(cacheMagic + "\xff\xff\xff\xff"))
	f.Add([]byte(oldMagic + "\x00\xff\xff\xff\xff"))
	if raw, err := os.ReadFile(loaderCache); err == nil {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := inLoaderCache(raw, cudaLink, "x86_64")
		require.LessOrEqual(t, len(found), min(100, len(raw)/cacheEntry))
		for _, p := range found {
			require.True(t, err == nil && filepath.IsAbs(p) && len(p) < 4096)
			require.Contains(t, string(raw), p)
		}
		// A good entry in front is found, whatever stands behind the list.
		good := append(loaderCacheOf(cudaLink, "/usr/lib64/libcuda.so.1"), raw...)
		found, err = inLoaderCache(good, cudaLink, "x86_64")
		require.NoError(t, err)
		require.Equal(t, []string{"/usr/lib64/libcuda.so.1"}, found)
	})
}

// loaderCacheOf writes a cache with names and their paths.
func loaderCacheOf(pairs ...string) []byte {
	n := len(pairs) / 2
	raw := make([]byte, cacheHeader+n*cacheEntry)
	copy(raw, cacheMagic)
	binary.LittleEndian.PutUint32(raw[20:], uint32(n))
	for i, s := range pairs {
		at := cacheHeader + i/2*cacheEntry
		binary.LittleEndian.PutUint32(raw[at:], loaderFlags["x86_64"])
		binary.LittleEndian.PutUint32(raw[at+4+4*(i%2):], uint32(len(raw)))
		raw = append(append(raw, s...), 0)
	}
	return raw
}
