package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// confFile has ldconfig look for libraries in the shared driver, before all other
// folders. Its name makes it the first.
const confFile = "/etc/ld.so.conf.d/00-pve-nvidia-hook.conf"

// SMI is nvidia-smi of the shared driver in a container.
const SMI = record.Shared + "/" + dirBin + "/nvidia-smi"

// InContainer is the version that a container has mounted, "" when it has none.
// The container's root can forge it, which costs that container alone.
func InContainer(c *lxc.Container) version.Driver {
	target, _ := c.Readlink(path.Join(record.Shared, dirLib, "libcuda.so.1"))
	v, _ := version.Parse(strings.TrimPrefix(target, "libcuda.so."))
	return v
}

// SetUp leads programs of a container to the shared driver that is mounted in it:
// one file for ldconfig, and links where programs look by a path. had is what an
// earlier set-up has made, of which goes what is no longer wanted. It returns what there
// is now, and which places hold something of others and were left alone.
func SetUp(ctx context.Context, c *lxc.Container, l Layout, had []record.File) (files []record.File, taken []string, err error) {
	files, taken, err = setUp(ctx, c, l, had)
	if err != nil {
		return files, taken, fmt.Errorf("set the shared driver up in the container: %w", err)
	}
	return files, taken, nil
}

func setUp(ctx context.Context, c *lxc.Container, l Layout, had []record.File) (files []record.File, taken []string, err error) {
	libdir := driver.LibraryFolder(c, l.Arch)
	for _, link := range l.Links {
		if below, ok := strings.CutPrefix(link.At, inLibdir); ok {
			link.At = path.Join(libdir, below)
		}
		want := record.File{Path: link.At, Link: path.Join(record.Shared, link.To)}
		ok, err := makeLink(c, want)
		if err != nil {
			return files, taken, err
		}
		if ok {
			files = append(files, want)
		} else {
			taken = append(taken, want.Path)
		}
	}
	text := "# The NVIDIA driver that this node shares; made by pve-nvidia-hook.\n"
	for _, dir := range l.Libs {
		text += path.Join(record.Shared, dir) + "\n"
	}
	if err := c.MkdirAll(path.Dir(confFile), 0o755); err != nil {
		return files, taken, err
	}
	if err := c.WriteFile(confFile, []byte(text), 0o644); err != nil {
		return files, taken, err
	}
	files = append(files, record.File{Path: confFile, Size: int64(len(text))})
	var old []record.File
	for _, f := range had {
		if !slices.ContainsFunc(files, func(g record.File) bool { return g.Path == f.Path }) {
			old = append(old, f)
		}
	}
	return files, taken, errors.Join(removeLinks(c, old), ldconfig(ctx, c))
}

// makeLink makes a link, or leads one of ours elsewhere. It returns false where
// something of others stands.
func makeLink(c *lxc.Container, want record.File) (bool, error) {
	had, err := c.Readlink(want.Path)
	switch {
	case err == nil && had == want.Link:
		return true, nil
	case err == nil && !leadsToUs(had):
		return false, nil
	case err == nil:
		if err := c.Remove(want.Path); err != nil {
			return false, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		if _, err := c.Lstat(want.Path); err == nil {
			return false, nil // no link
		}
		return false, err
	}
	if err := c.MkdirAll(path.Dir(want.Path), 0o755); err != nil {
		return false, err
	}
	err = c.Symlink(want.Link, want.Path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func leadsToUs(target string) bool { return strings.HasPrefix(target, record.Shared+"/") }

// removeLinks removes links of the list that lead to the shared driver. The list
// comes from the container's record, so nothing else is removed.
func removeLinks(c *lxc.Container, files []record.File) error {
	var errs []error
	for _, f := range files {
		if target, err := c.Readlink(f.Path); err == nil && leadsToUs(target) {
			errs = append(errs, c.Remove(f.Path))
		}
	}
	return errors.Join(errs...)
}

// TakeAway undoes SetUp. The mount stays until the container's restart.
func TakeAway(ctx context.Context, c *lxc.Container, files []record.File) error {
	err := errors.Join(removeLinks(c, files), c.Remove(confFile))
	if err == nil {
		err = ldconfig(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("take the set-up of the shared driver out of the container: %w", err)
	}
	return nil
}

// Differs says how a container's set-up is not as its record tells, "" when it is. l
// is what the node shares now; mounted is the version in the container, which may have
// been started with an earlier one.
func Differs(c *lxc.Container, in *record.Installed, l Layout, mounted version.Driver) string {
	names := make([]string, len(in.Files))
	for i, f := range in.Files {
		names[i] = f.Path
	}
	conf := false
	for i, found := range c.LstatAll(names) {
		f := in.Files[i]
		conf = conf || f.Path == confFile
		switch {
		case found.Err != nil:
			return f.Path + " of the shared driver's set-up is gone"
		case found.Target != f.Link, f.Link == "" && found.Size != f.Size:
			return f.Path + " of the shared driver's set-up is not as it was made"
		}
	}
	switch {
	case !conf:
		return "the record does not name " + confFile
	case l.Version != "" && l.Version == mounted && l.Digest() != in.Layout:
		return fmt.Sprintf("the shared driver %s has other files than the set-up in the container was made for", l.Version)
	}
	return ""
}

const ldconfigTime = 2 * time.Minute

func ldconfig(ctx context.Context, c *lxc.Container) error {
	result, err := c.Run(ctx, lxc.Cmd{Args: []string{"ldconfig"}, Timeout: ldconfigTime, Keep: 16 << 10, Reap: true})
	if err != nil {
		return fmt.Errorf("run ldconfig in the container: %w", err)
	}
	if result.Code != 0 {
		lines := strings.Split(strings.TrimSpace(string(result.Stderr)), "\n")
		return hint.Errorf("run ldconfig in the container and see what it says",
			"ldconfig ended with exit status %d: %s", result.Code, say.Clean(lines[len(lines)-1], 200))
	}
	return nil
}
