package runfile

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// limits bound what a payload may unpack to. The largest known one, 610.57.04,
// has 1,189 members and 1.8 GB.
type limits struct {
	members int   // files and folders
	file    int64 // bytes of one file
	total   int64 // bytes of all files
	depth   int   // folders above a file
}

var hostLimits = limits{members: 20_000, file: 4 << 30, total: 8 << 30, depth: 32}

// tarOverhead is what headers, padding and long names may add to the files.
const tarOverhead = 128 << 20

// errTar marks an error of the tar stream, which may be one of what lies below it.
var errTar = errors.New("bad tar")

// tree writes the members of a tar stream below a folder.
type tree struct {
	root  *os.Root
	limit limits
	seen  map[string]bool // path -> is a folder that only its members named so far
	files int
	bytes int64
	buf   []byte
}

// unpackTree writes the tar stream r below dir. NVIDIA's payload holds only
// files and folders: links are made by the installer. Anything else is refused.
func unpackTree(ctx context.Context, r io.Reader, dir string, l limits) (files int, bytes int64, err error) {
	root, err := newFolder(dir)
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	t := tree{root: root, limit: l, seen: map[string]bool{}, buf: make([]byte, chunk)}
	for tr := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return t.files, t.bytes, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			if t.files == 0 {
				return 0, 0, wrong("payload holds no files")
			}
			return t.files, t.bytes, nil
		}
		if err != nil {
			return t.files, t.bytes, &marked{err, errTar}
		}
		if err := t.member(h, tr); err != nil {
			return t.files, t.bytes, err
		}
	}
}

// newFolder opens dir, made here or empty.
func newFolder(dir string) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if i, err := os.Lstat(dir); err != nil || !i.IsDir() {
			return nil, fmt.Errorf("%s is not a folder", dir)
		}
		if e, err := os.ReadDir(dir); err != nil || len(e) > 0 {
			return nil, errors.Join(err, fmt.Errorf("folder %s is not empty", dir))
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	// A strict umask or a temporary folder's 0700 would hide the tree from a container's users.
	if err := root.Chmod(".", 0o755); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

func (t *tree) member(h *tar.Header, r io.Reader) error {
	name, err := memberName(h.Name, t.limit.depth)
	if err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return wrong("payload holds the sparse file %q: not in NVIDIA's files", name)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.folder(name)
	case tar.TypeReg, '\x00': // NUL is how tar before POSIX wrote a file
	default:
		return wrong("payload holds %q of tar type %q: only files and folders are expected", name, h.Typeflag)
	}
	if name == "." || strings.HasSuffix(h.Name, "/") {
		return wrong("payload holds the file %.80q with the name of a folder", h.Name)
	}
	if h.Size > t.limit.file {
		return wrong("payload holds %q of %s: more than %s", name, amount(h.Size), amount(t.limit.file))
	}
	if t.bytes+h.Size > t.limit.total {
		return wrong("payload holds more than %s, with %q", amount(t.limit.total), name)
	}
	if err := t.parents(name); err != nil {
		return err
	}
	if _, seen := t.seen[name]; seen {
		return wrong("payload holds %q twice", name)
	}
	if err := t.count(name, false); err != nil {
		return err
	}
	return t.file(name, h, r)
}

// memberName returns a member's path below the folder: "." for the folder itself.
func memberName(name string, depth int) (string, error) {
	if name == "" || len(name) >= unix.PathMax {
		return "", wrong("payload holds a member with a name of %d bytes", len(name))
	}
	if !utf8.ValidString(name) || !printable(name) {
		return "", wrong("payload holds %.80q: a name with control characters", name)
	}
	if name[0] == '/' {
		return "", wrong("payload holds the absolute name %.80q", name)
	}
	parts := strings.Split(name, "/")
	for _, p := range parts {
		if p == ".." {
			return "", wrong("payload holds %.80q: a name that leads out of its folder", name)
		}
		if len(p) > unix.NAME_MAX {
			return "", wrong("payload holds %.80q: a name of more than %d bytes", name, unix.NAME_MAX)
		}
	}
	if clean := path.Clean(name); strings.Count(clean, "/") <= depth {
		return clean, nil
	}
	return "", wrong("payload holds %.80q: more than %d folders deep", name, depth)
}

func (t *tree) count(name string, implied bool) error {
	if t.files >= t.limit.members {
		return wrong("payload holds more than %d members", t.limit.members)
	}
	t.files++
	t.seen[name] = implied
	return nil
}

// folder makes a folder that the payload names.
func (t *tree) folder(name string) error {
	if name == "." {
		return nil
	}
	implied, seen := t.seen[name]
	if seen && !implied {
		return wrong("payload holds %q twice", name)
	}
	if seen {
		t.seen[name] = false
		return nil
	}
	if err := t.parents(name); err != nil {
		return err
	}
	return t.mkdir(name, false)
}

// parents makes the folders above name that no member has named yet.
func (t *tree) parents(name string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		if _, seen := t.seen[name[:i]]; seen {
			continue
		}
		if err := t.mkdir(name[:i], true); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) mkdir(name string, implied bool) error {
	if err := t.count(name, implied); err != nil {
		return err
	}
	if err := t.root.Mkdir(name, 0o755); err != nil {
		return belowFile(name, err)
	}
	return t.root.Chmod(name, 0o755)
}

// belowFile tells a payload that puts something below a file from a disk's error.
func belowFile(name string, err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return wrong("payload holds %q below a file", name)
	}
	return err
}

// file writes one file. Of its mode only "executable" is kept: 0755 or 0644,
// so no set-user-ID bit and no write access for others enters a tree that
// containers see. What mode the installer gives a file stands in the manifest.
func (t *tree) file(name string, h *tar.Header, r io.Reader) (err error) {
	mode := fs.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return belowFile(name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	for {
		n, rerr := r.Read(t.buf)
		if n > 0 {
			if _, err := f.Write(t.buf[:n]); err != nil {
				return err
			}
			t.bytes += int64(n)
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return &marked{fmt.Errorf("%s: %w", name, rerr), errTar}
		}
	}
}
