package driver

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
)

// begin notes in the container what the installer may put there that is not there
// now. An installer that is killed has not noted the file in flight: the next one
// would take that for somebody else's and keep it for ever.
func begin(c *lxc.Container, j Job) error {
	remove(c, j.Log, begunLeft(c))
	m, err := j.Manifest()
	if err != nil {
		return err
	}
	var files []record.File
	add := func(dir string, compat32 bool) {
		for _, e := range m.Entries {
			at, ok := m.MayBeAt(e, dir)
			if !ok || e.Compat32 != compat32 || e.Packaged() {
				continue
			}
			f := record.File{Path: at, Link: e.LinkText(dir)}
			if !e.IsLink() {
				info, err := os.Lstat(filepath.Join(j.Tree, e.Path))
				if err != nil {
					continue
				}
				f.Size = info.Size()
			}
			files = append(files, f)
		}
	}
	add(LibraryFolder(c, j.arch()), false)
	if dir := likelyLibdir32(c); dir != "" && j.wants(runfile.Compat32) {
		add(dir, true)
	}
	begun := record.Begun{Version: j.Version(), At: time.Now()}
	for i, found := range c.LstatAll(paths(files)) {
		if errors.Is(found.Err, fs.ErrNotExist) {
			begun.Files = append(begun.Files, files[i])
		}
	}
	if err := record.WriteBegun(c, begun); err != nil {
		return unprepared(err)
	}
	return nil
}

// begunLeft lists what is there of what an installer was started to put there,
// whether it came to note it or not. A file that another has replaced since is
// not the driver's any more: it has another size than it was to have. Only where
// the installer has notes, and the file is not among them, can it be a part of one.
func begunLeft(c *lxc.Container) []string {
	begun, err := record.ReadBegun(c)
	if err != nil || begun == nil {
		return nil // written by another: then nothing is known
	}
	cut := func(string) bool { return false }
	if loggedVersion(c) == begun.Version {
		notes := readNoted(c)
		cut = func(name string) bool { return !slices.Contains(notes.files, name) }
	}
	var left []string
	for i, found := range c.LstatAll(paths(begun.Files)) {
		f := begun.Files[i]
		whole := found.Target == f.Link && (f.Link != "" || found.Mode.IsRegular() && found.Size == f.Size)
		part := f.Link == "" && found.Mode.IsRegular() && found.Size < f.Size && cut(f.Path)
		if found.Err == nil && (whole || part) && named(f.Path) {
			left = append(left, f.Path)
		}
	}
	return left
}

// named keeps the list, which is the container's claim, from naming just any file
// for removal: the driver is in the name of all its files, of their folder, or
// they are one of its four libraries without it.
func named(name string) bool {
	return driversName().MatchString(name) && !theirs().MatchString(path.Base(name))
}

var driversName = lazy.Regexp(`^(/usr/|/lib/firmware/|/etc/(vulkan|vulkansc|OpenCL|systemd)/).*([Nn][Vv][Ii][Dd][Ii][Aa]|/lib(cuda|cudadebugger|nvcuvid|nvoptix)\.so[^/]*$|/nvoptix\.bin$)`)

func paths(files []record.File) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Path
	}
	return names
}

// Left lists what is in the container of a driver, by the names of its libraries
// and by what this program has begun to install.
func Left(c *lxc.Container, arch string) []string {
	left := append(Orphans(c, arch, ""), begunLeft(c)...)
	slices.Sort(left)
	return slices.Compact(left)
}

// LibraryFolder is the folder of a container's 64-bit libraries: that of its C
// library, which an installer chooses too.
func LibraryFolder(c *lxc.Container, arch string) string {
	for _, dir := range libdirs(c, arch) {
		for _, name := range []string{dir, strings.TrimPrefix(dir, "/usr")} { // merged or not
			if _, err := c.Stat(name + "/libc.so.6"); err == nil {
				return dir
			}
		}
	}
	return "/usr/lib"
}

// likelyLibdir32 is the same for 32-bit libraries, "" when there is none.
func likelyLibdir32(c *lxc.Container) string {
	for _, dir := range libdirs32 {
		if _, err := c.Stat(dir + "/libc.so.6"); err == nil && dir != LibraryFolder(c, "x86_64") {
			return dir
		}
	}
	return ""
}

// libdirs32 are the folders that an installer chooses from for 32-bit libraries.
var libdirs32 = []string{"/usr/lib/i386-linux-gnu", "/usr/lib32", "/usr/lib"}

func has(c *lxc.Container, name string) bool {
	_, err := c.Lstat(name)
	return err == nil
}

func missing(c *lxc.Container, name string) bool {
	_, err := c.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}
