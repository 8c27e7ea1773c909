package driver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// loaderCache is what ldconfig writes and the dynamic loader looks into before
// it looks into its default folders.
const loaderCache = "/etc/ld.so.cache"

// maxLoaderCache is the largest cache that is read, in bytes. One of a desktop
// with all languages has 300 KB.
const maxLoaderCache = 8 << 20

// Loaded is a library as the container's loader finds it.
type Loaded struct {
	Path    string         // of the first one; "" when the cache has none
	Version version.Driver // that its file names; "" when it names none
}

// LoaderCUDA returns the libcuda.so.1 that programs in the container get, by the
// loader's own cache. Another one than the driver's comes first where a folder of
// cuda-compat, conda or pip stands in /etc/ld.so.conf.d. LD_LIBRARY_PATH of a
// program overrides it and is not known here. Without a cache (musl has none) the
// result is empty. The file is the container's, and all in it is a claim.
func LoaderCUDA(c *lxc.Container, arch string) (Loaded, error) {
	raw, err := c.ReadFile(loaderCache, maxLoaderCache)
	if errors.Is(err, fs.ErrNotExist) {
		return Loaded{}, nil
	}
	if err != nil {
		return Loaded{}, err
	}
	found, err := inLoaderCache(raw, cudaLink, arch)
	if err != nil {
		return Loaded{}, fmt.Errorf("read %s: %w", loaderCache, err)
	}
	if len(found) == 0 {
		return Loaded{}, nil
	}
	name := path.Clean("/" + found[0])
	v := versionOf(name)
	// libcuda.so.1 leads to libcuda.so.580.142, or to another link that does.
	for at, n := name, 0; v == "" && n < 5; n++ {
		target, err := c.Readlink(at)
		if err != nil {
			break
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		at, v = path.Clean(target), versionOf(target)
	}
	return Loaded{name, v}, nil
}

// Shadowed says that programs get another libcuda.so.1 than that of driver v, by the
// loader's own cache. It is nil where they get it, or where that cannot be told.
func Shadowed(c *lxc.Container, arch string, v version.Driver) error {
	l, err := LoaderCUDA(c, arch)
	if err != nil || l.Path == "" || l.Version == v || DriverFolder(l.Path, arch) {
		return nil
	}
	return hint.Errorf("see ldconfig -p in the container; take its folder out of /etc/ld.so.conf.d there, then run ldconfig",
		"programs in the container get %s instead of the libcuda of driver %s", say.Clean(l.Path, 200), v)
}

// DriverFolder reports whether a library lies where NVIDIA's installer puts those
// of the driver. /lib is a link to /usr/lib in most distributions.
func DriverFolder(library, arch string) bool {
	dir := path.Dir(library)
	return slices.Contains([]string{"/usr/lib/" + arch + "-linux-gnu", "/lib/" + arch + "-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib"}, dir)
}

// The form of /etc/ld.so.cache, from glibc's sysdeps/generic/dl-cache.h. All
// numbers are in the byte order of the machine, little endian on both of ours.
const (
	oldMagic    = "ld.so-1.7.0"
	oldHeader   = 16 // magic, padding, number of entries
	oldEntry    = 12
	cacheMagic  = "glibc-ld.so.cache1.1"
	cacheHeader = 48 // magic, number of entries (at 20), and what is not needed here
	cacheEntry  = 24 // flags, offsets of name and path, osversion, hwcap
)

// Flags of a library of the C library 6 for each processor.
var loaderFlags = map[string]uint32{"x86_64": 0x0303, "aarch64": 0x0a03}

// inLoaderCache returns the paths of a library in a loader's cache, the one that
// the loader takes first. Libraries for better processors (glibc-hwcaps) are
// passed over, as NVIDIA's has none.
func inLoaderCache(raw []byte, name, arch string) ([]string, error) {
	if bytes.HasPrefix(raw, []byte(oldMagic)) { // glibc before 2.32 puts the new form behind the old one
		if len(raw) < oldHeader {
			return nil, errors.New("it is cut off in its header")
		}
		end := oldHeader + oldEntry*int64(binary.LittleEndian.Uint32(raw[12:]))
		end = (end + 7) &^ 7
		if end > int64(len(raw)) {
			return nil, errors.New("it is cut off in its list")
		}
		raw = raw[end:]
	}
	if !bytes.HasPrefix(raw, []byte(cacheMagic)) {
		return nil, errors.New("its format is not known")
	}
	if len(raw) < cacheHeader {
		return nil, errors.New("it is cut off in its header")
	}
	n := int64(binary.LittleEndian.Uint32(raw[20:]))
	if cacheHeader+n*cacheEntry > int64(len(raw)) {
		return nil, errors.New("it is cut off in its list")
	}
	text := func(offset uint32) string {
		const longest = 4096 // PATH_MAX
		if int64(offset) >= int64(len(raw)) {
			return ""
		}
		rest := raw[offset:min(int64(len(raw)), int64(offset)+longest)]
		end := bytes.IndexByte(rest, 0)
		return string(rest[:max(end, 0)])
	}
	var found []string
	for i := range n {
		e := raw[cacheHeader+i*cacheEntry:]
		hwcap := binary.LittleEndian.Uint64(e[16:])
		if binary.LittleEndian.Uint32(e) != loaderFlags[arch] || hwcap != 0 || text(binary.LittleEndian.Uint32(e[4:])) != name {
			continue
		}
		if p := text(binary.LittleEndian.Uint32(e[8:])); path.IsAbs(p) {
			found = append(found, p)
		}
		if len(found) == 100 {
			break
		}
	}
	return found, nil
}
