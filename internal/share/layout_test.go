package share

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// unpacked is the tree of a sample run file, as the cache has it.
func unpacked(t testing.TB, cache, v string) string {
	t.Helper()
	file, err := fakerun.Write(t.TempDir(), fakerun.Spec{Version: v, NoDecompressor: true})
	require.NoError(t, err)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	tree := filepath.Join(cache, strings.TrimSuffix(filepath.Base(file), ".run"))
	_, err = runfile.Unpack(t.Context(), bytes.NewReader(data), tree, runfile.Want{Version: version.Driver(v), Arch: "x86_64"})
	require.NoError(t, err)
	return tree
}

// laidOut is the layout of a sample.
func laidOut(t testing.TB, cache, v string) (tree, dir string) {
	t.Helper()
	tree = unpacked(t, cache, v)
	dir = Dir(tree, "pve1")
	require.NoError(t, Build(tree, dir, "x86_64"))
	return tree, dir
}

func TestALayoutHoldsTheUserSpaceAndTakesNoRoom(t *testing.T) {
	for _, v := range []string{"470.256.02", "550.163.01", "580.142"} {
		tree, dir := laidOut(t, t.TempDir(), v)
		for _, name := range []string{
			"lib/libcuda.so." + v, "lib/libnvidia-ml.so." + v, "lib/vdpau/libvdpau_nvidia.so." + v, "bin/nvidia-smi",
			"share/etc/OpenCL/vendors/nvidia.icd", "share/etc/vulkan/icd.d/nvidia_icd.json", "lib32/libcuda.so." + v,
		} {
			st, err := os.Lstat(filepath.Join(dir, name))
			require.NoError(t, err)
			require.True(t, st.Mode().IsRegular(), name)
			in, err := os.Lstat(filepath.Join(tree, sourceOf(tree, name)))
			require.NoError(t, err)
			require.True(t, os.SameFile(st, in), "%s is a hard link", name)
			require.EqualValues(t, 0o444, st.Mode()&0o444, name)
		}
		for name, to := range map[string]string{
			"lib/libcuda.so.1": "libcuda.so." + v, "lib/libnvidia-ml.so.1": "libnvidia-ml.so." + v,
		} {
			text, err := os.Readlink(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, to, text)
		}
		for _, name := range []string{
			"bin/nvidia-installer", "bin/nvidia-uninstall", "bin/nvidia-modprobe", "bin/nvidia-settings", "bin/nvidia-xconfig",
			"share/lib/firmware", "share/usr/share/doc", "share/usr/share/man", "share/usr/lib64/xorg", "share/usr/share/applications",
			"share/usr/lib/systemd", "share/usr/lib/nvidia", "lib/libGL.so.1", "lib/libEGL.so.1", "lib/libOpenCL.so.1",
		} {
			_, err := os.Lstat(filepath.Join(dir, name))
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		}
		l, err := ReadLayout(dir)
		require.NoError(t, err)
		require.Equal(t, version.Driver(v), l.Version)
		require.Equal(t, []string{"lib", "lib32"}, l.Libs)
		require.Contains(t, l.Sonames, "libcuda.so.1")
		require.Contains(t, l.Links, Link{"/usr/bin/nvidia-smi", "bin/nvidia-smi"})
		require.Contains(t, l.Links, Link{"/etc/OpenCL/vendors/nvidia.icd", "share/etc/OpenCL/vendors/nvidia.icd"})
		require.Contains(t, l.Links, Link{"{libdir}/vdpau/libvdpau_nvidia.so.1", "lib/vdpau/libvdpau_nvidia.so.1"})
	}
}

// sourceOf finds the file of a tree that lies in the layout under another folder.
func sourceOf(tree, name string) string {
	for _, at := range []string{path.Base(name), "32/" + path.Base(name)} {
		if strings.HasPrefix(at, "32/") != strings.HasPrefix(name, "lib32/") {
			continue
		}
		if _, err := os.Lstat(filepath.Join(tree, at)); err == nil {
			return at
		}
	}
	return "missing in the tree: " + name
}

// Each library must be found by the name that stands in its header: ldconfig in a
// container cannot make that link on a read-only mount.
func TestALayoutHasALinkForEverySoname(t *testing.T) {
	_, dir := laidOut(t, t.TempDir(), "580.142")
	found := 0
	for _, lib := range []string{"lib", "lib32"} {
		names, err := filepath.Glob(filepath.Join(dir, lib, "*.so*"))
		require.NoError(t, err)
		for _, name := range names {
			f, err := elf.Open(name)
			require.NoError(t, err, name)
			so, err := f.DynString(elf.DT_SONAME)
			f.Close()
			require.NoError(t, err)
			for _, s := range so {
				a, err := os.Stat(filepath.Join(dir, lib, s))
				require.NoError(t, err, "%s of %s", s, name)
				b, err := os.Stat(name)
				require.NoError(t, err)
				require.True(t, os.SameFile(a, b), "%s leads to %s", s, name)
				found++
			}
		}
	}
	require.Greater(t, found, 20)
}

func TestGBMsLinkLeadsToTheMountInTheContainer(t *testing.T) {
	_, dir := laidOut(t, t.TempDir(), "580.142")
	text, err := os.Readlink(filepath.Join(dir, "lib/gbm/nvidia-drm_gbm.so"))
	require.NoError(t, err)
	require.Equal(t, record.Shared+"/lib/libnvidia-allocator.so.1", text)
}

func TestALayoutIsMadeOnceAndAgainWhenTheTreeIsAnother(t *testing.T) {
	cache := t.TempDir()
	tree, dir := laidOut(t, cache, "580.142")
	inode := func() fs.FileInfo {
		st, err := os.Stat(dir)
		require.NoError(t, err)
		return st
	}
	first := inode()
	require.NoError(t, Build(tree, dir, "x86_64"))
	require.True(t, os.SameFile(first, inode()), "nothing was to be done")

	require.NoError(t, os.MkdirAll(dir+".new/lib", 0o755), "of a run that was killed")
	require.NoError(t, os.Remove(filepath.Join(dir, "lib/libcuda.so.1")))
	require.NoError(t, Build(tree, dir, "x86_64"))
	require.FileExists(t, filepath.Join(dir, "lib/libcuda.so.1"))
	require.NoDirExists(t, dir+".new")

	require.NoError(t, os.RemoveAll(tree))
	require.Equal(t, tree, unpacked(t, cache, "580.142"))
	require.NoError(t, Build(tree, dir, "x86_64"))
	a, err := os.Stat(filepath.Join(tree, "libcuda.so.580.142"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(dir, "lib/libcuda.so.580.142"))
	require.NoError(t, err)
	require.True(t, os.SameFile(a, b))
}

func TestALayoutThatFailsLeavesNothing(t *testing.T) {
	tree := unpacked(t, t.TempDir(), "580.142")
	require.NoError(t, os.Remove(filepath.Join(tree, "libnvidia-ml.so.580.142")))
	require.ErrorContains(t, Build(tree, Dir(tree, "pve1"), "x86_64"), "libnvidia-ml.so.580.142 is no file")
	left, err := filepath.Glob(tree + ".share*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// The next version needs no new set-up in a container, unless it has other libraries.
func TestVersionsWithTheSameNamesHaveOneDigest(t *testing.T) {
	a := Layout{Version: "580.76.05", Libs: []string{"lib"}, Sonames: []string{"libcuda.so.1"}}
	b := a
	b.Version = "580.142"
	require.Equal(t, a.Digest(), b.Digest())
	b.Sonames = append(slices.Clone(b.Sonames), "libnvidia-new.so.1")
	require.NotEqual(t, a.Digest(), b.Digest())
}

func TestPruneKeepsWhatIsMountedAndWhatIsOfOthers(t *testing.T) {
	cache, run := t.TempDir(), t.TempDir()
	tree, dir := laidOut(t, cache, "580.142")
	other := Dir(tree, "pve2")
	require.NoError(t, Build(tree, other, "x86_64"))
	require.NoError(t, Prune(cache, run, "pve1"))
	require.DirExists(t, dir, "its tree is there")
	require.NoError(t, os.RemoveAll(tree))
	require.NoError(t, note(run, dir))
	require.NoError(t, Prune(cache, run, "pve1"))
	require.DirExists(t, dir, "it was mounted since the boot")
	require.NoError(t, os.RemoveAll(filepath.Join(run, notesDir)))
	require.NoError(t, Prune(cache, run, "pve1"))
	require.NoDirExists(t, dir)
	require.DirExists(t, other)
}

func TestPruneRemovesWhatAKilledBuildHasLeft(t *testing.T) {
	cache, run := t.TempDir(), t.TempDir()
	tree, dir := laidOut(t, cache, "580.142")
	left := dir + ".new"
	require.NoError(t, os.Rename(dir, left))
	require.NoError(t, Prune(cache, run, "pve1"))
	require.DirExists(t, left, "its tree is there: the next one that lays it out takes care of it")
	require.NoError(t, os.RemoveAll(tree))
	require.NoError(t, Prune(cache, run, "pve1"))
	require.NoDirExists(t, left)
}
