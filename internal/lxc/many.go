package lxc

import (
	"path"

	"golang.org/x/sys/unix"
)

// Entry is what LstatAll tells of one name.
type Entry struct {
	Info
	Target string // of a symbolic link, as it is written there
	Err    error  // satisfies errors.Is(err, fs.ErrNotExist) when nothing is there
}

// LstatAll is Lstat of many names, and Readlink of those that are links. The names
// are clean absolute paths. Names in the same folder should follow one another: the
// folder is opened once for them, as a driver has seventy files.
func (c *Container) LstatAll(names []string) []Entry {
	all := make([]Entry, len(names))
	err := c.as(func() error {
		dir, folder := -1, ""
		defer func() { unix.Close(dir) }()
		for i, name := range names {
			in, last := path.Split(name)
			if !path.IsAbs(name) || path.Clean(name) != name || last == "" {
				all[i].Err = unix.EINVAL
				continue
			}
			if in != folder {
				unix.Close(dir)
				folder = ""
				// The kernel follows links on the way, but stays inside the root. The
				// last name is not followed.
				if dir, all[i].Err = c.resolve(c.root, in, unix.O_PATH|unix.O_DIRECTORY, 0); all[i].Err != nil {
					continue
				}
				folder = in
			}
			all[i].Info, all[i].Target, all[i].Err = lookAt(dir, last)
		}
		return nil
	})
	for i, name := range names {
		if err != nil {
			all[i] = Entry{Err: err}
		}
		all[i].Err = pathError("lstat", name, all[i].Err)
	}
	return all
}

// lookAt tells of a name in an open folder, and the target if it is a link. The name
// is a single one and is not followed, so it cannot lead out of the folder.
func lookAt(dir int, last string) (Info, string, error) {
	var st unix.Stat_t
	err := error(unix.EINTR)
	for tries := 0; err == unix.EINTR && tries < 128; tries++ { // a FUSE file system may say so
		err = unix.Fstatat(dir, last, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return Info{}, "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return info(st), "", nil
	}
	target, err := readlinkAt(dir, last)
	return info(st), target, err
}
