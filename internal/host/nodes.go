package host

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Node is something below /dev that bears the name of an NVIDIA device node.
type Node struct {
	Path         string // as the node sees it: /dev/nvidia0
	Major, Minor uint32
	Mode         uint32 // permission bits
	UID, GID     uint32
	IsChar       bool // a character device, as it should be; not the empty file that a failed mount leaves
}

// nodeName matches the names that the driver's programs use; nvidia-caps is a folder.
var nodeName = lazy.Regexp(`^nvidia([0-9]+|ctl|-uvm|-uvm-tools|-modeset|-caps/nvidia-cap[0-9]+)$`)

// NodesPresent lists the NVIDIA device nodes in dev below root ("" is /), by
// path, GPUs in the order of their numbers.
func NodesPresent(root string) []Node {
	dev := below(root, "dev")
	files, _ := filepath.Glob(filepath.Join(dev, "nvidia*"))
	caps, _ := filepath.Glob(filepath.Join(dev, "nvidia-caps", "nvidia-cap*"))
	var nodes []Node
	for _, file := range append(files, caps...) {
		name, err := filepath.Rel(dev, file)
		if err != nil || !nodeName().MatchString(name) {
			continue
		}
		if n, err := lookAt(root, "/dev/"+name); err == nil {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(len(a.Path), len(b.Path)), cmp.Compare(a.Path, b.Path))
	})
	return nodes
}

func lookAt(root, path string) (Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(below(root, path), &st); err != nil {
		return Node{}, err
	}
	return Node{
		Path: path, Major: unix.Major(uint64(st.Rdev)), Minor: unix.Minor(uint64(st.Rdev)),
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, IsChar: st.Mode&unix.S_IFMT == unix.S_IFCHR,
	}, nil
}

// below joins root and a path below it; "" stands for /.
func below(root string, path ...string) string {
	return filepath.Join(append([]string{cmp.Or(root, "/")}, path...)...)
}

// mend says what is to be done for a wanted node, given what stands in its
// place (nil: nothing): "" for nothing, else the words for it.
func (want Node) mend(old *Node) string {
	numbers := fmt.Sprintf("%s (%d:%d, mode %04o)", want.Path, want.Major, want.Minor, want.Mode)
	switch {
	case old == nil:
		return "made " + numbers
	case !old.IsChar:
		return "made " + numbers + ", in place of a file that was not a device"
	case old.Major != want.Major || old.Minor != want.Minor:
		return fmt.Sprintf("made %s again, it had the old numbers %d:%d", numbers, old.Major, old.Minor)
	case old.Mode != want.Mode || old.UID != want.UID || old.GID != want.GID:
		return fmt.Sprintf("set mode %04o and owner %d:%d of %s", want.Mode, want.UID, want.GID, want.Path)
	}
	return ""
}

// make puts the node in its place. It is made under another name and renamed,
// so that a container that starts meanwhile finds the old one or the new one.
func (want Node) make(root string, onlyMode bool) error {
	file := below(root, want.Path)
	if onlyMode {
		return want.own(file)
	}
	if fi, err := os.Lstat(file); err == nil && fi.IsDir() {
		return fmt.Errorf("make %s: it is a folder", want.Path)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make %s: %w", want.Path, err)
	}
	tmp := fmt.Sprintf("%s.%d.tmp", file, os.Getpid())
	_ = os.Remove(tmp) // of a process with the same number that was killed
	if err := unix.Mknod(tmp, unix.S_IFCHR|want.Mode, int(unix.Mkdev(want.Major, want.Minor))); err != nil {
		return fmt.Errorf("make %s: %w", want.Path, err)
	}
	err := want.own(tmp)
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make %s: %w", want.Path, err)
	}
	return nil
}

func (want Node) own(file string) error {
	if err := os.Lchown(file, int(want.UID), int(want.GID)); err != nil {
		return err
	}
	return os.Chmod(file, os.FileMode(want.Mode)) // after chown, which clears bits
}

// NodePaths returns the paths of the character devices among nodes.
func NodePaths(nodes []Node) []string {
	var paths []string
	for _, n := range nodes {
		if n.IsChar {
			paths = append(paths, n.Path)
		}
	}
	return paths
}
