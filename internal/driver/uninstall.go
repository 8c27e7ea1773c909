package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Uninstall removes a driver that a run file installed, also a half-installed
// one, and what is left of other versions than keep ("" keeps none). It never
// touches kernel modules. A container without a driver is no error.
//
// First go the links that lead nowhere, and the files that a killed installer has
// not noted: the uninstaller leaves both. Then the driver's own uninstaller runs.
// The installer of a new version would run it too, but would let it unload the
// host's modules.
func Uninstall(ctx context.Context, c *lxc.Container, arch string, in *record.Installed, keep version.Driver, timeout time.Duration, log say.Log) (err error) {
	found, done := Look(c, arch), false
	notes := readNoted(c)
	logged := append(slices.Clone(notes.files), paths(notes.links)...)
	remove(c, log, dangling(c, in))
	remove(c, log, slices.DeleteFunc(begunLeft(c), func(name string) bool { return slices.Contains(logged, name) }))
	if executable(c, "/usr/bin/nvidia-uninstall") && found.Log != "" {
		if err := prepare(ctx, c); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, Clear(ctx, c)) }()
		if done, err = runUninstaller(ctx, c, found.Log, timeout, log); err != nil {
			return err
		}
	}
	// The uninstaller knows only what its log lists. What the record names, and what
	// older installers have left, would shadow the new libraries.
	others := append(recorded(c, in, keep, done), notPackaged(ctx, c, Orphans(c, arch, keep), log)...)
	if keep == "" && !done { // of an installation that was killed
		others = append(others, logged...)
	}
	remove(c, log, slices.DeleteFunc(others, func(name string) bool { return !ours(name) }))
	remove(c, log, begunLeft(c))
	if keep == "" {
		removeTraces(c, arch, log)
		if len(begunLeft(c)) == 0 {
			return c.Remove(record.BegunPath)
		}
	}
	return nil
}

func remove(c *lxc.Container, log say.Log, names []string) {
	for _, name := range names {
		if err := c.Remove(name); err != nil {
			log.Warnf("could not remove %s: %v", name, err)
		}
	}
}

// recorded are the files of a record that are still as it names them. When the
// driver's own uninstaller has run (done), only files with the version in their name
// count: others may be what it has put back, which was there before the driver.
func recorded(c *lxc.Container, in *record.Installed, keep version.Driver, done bool) []string {
	if in == nil || in.Version == keep {
		return nil
	}
	files := slices.DeleteFunc(slices.Clone(in.Files), func(f record.File) bool {
		return done && !strings.Contains(f.Path, string(in.Version))
	})
	var left []string
	for i, found := range c.LstatAll(paths(files)) {
		f := files[i]
		if found.Err == nil && found.Target == f.Link && (f.Link != "" || found.Mode.IsRegular() && found.Size == f.Size) {
			left = append(left, f.Path)
		}
	}
	return left
}

// removeTraces removes what is left of an installation that was killed before it had
// an uninstaller: links that lead nowhere, and the log. It is not called when an
// installer is to follow, which needs that log to clean up.
func removeTraces(c *lxc.Container, arch string, log say.Log) {
	removeFolders(c)
	gone := []string{installerState + "/log", installerState + "/dirs", installerState}
	// The installer always makes this link, for programs of the Linux OpenGL ABI,
	// and its uninstaller leaves it where it leads nowhere.
	if target, err := c.Readlink(abiLink); err == nil && path.Base(target) == path.Base(abiLink) && missing(c, abiLink) {
		gone = append(gone, abiLink)
	}
	for _, dir := range libdirs(c, arch) {
		for _, link := range []string{cudaLink, nvmlLink} {
			name := path.Join(dir, link)
			if linkedVersion(c, name) != "" && missing(c, name) {
				gone = append(gone, name)
			}
		}
	}
	for _, name := range gone {
		if err := c.Remove(name); err != nil {
			log.Debugf("could not remove %s: %v", name, err)
		}
	}
}

// removeFolders removes the folders that the installer has noted as made by it, as
// far as they are empty. Its uninstaller does so last, unless it is killed.
func removeFolders(c *lxc.Container) {
	const most = 500
	text, err := c.ReadFile(installerState+"/dirs", 64<<10)
	if err != nil {
		return
	}
	var dirs []string
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if len(dirs) < most && path.IsAbs(name) && path.Clean(name) == name {
			dirs = append(dirs, name)
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) }) // inner ones first
	for _, name := range dirs {
		if info, err := c.Lstat(name); err == nil && info.Mode.IsDir() {
			_ = c.Remove(name) // fails for one that holds something
		}
	}
}

const abiLink = "/usr/lib/libGL.so.1"

// ours keeps a record, which is the container's claim, from naming just any
// file for removal: only driver libraries, programs and firmware go.
func ours(name string) bool {
	return driverFile().MatchString(name) && !theirs().MatchString(path.Base(name))
}

var driverFile = lazy.Regexp(`^(/usr/bin/nvidia-[a-z0-9-]+|(/usr)?/lib/firmware/nvidia/[0-9]+(\.[0-9]+)+/[a-z0-9_]+(\.[a-z]+)*|/usr/lib(32|64)?(/[a-z0-9_]+-linux-gnu)?/((vdpau|gbm|nvidia)/)?(nvidia-drm_gbm\.so|lib[A-Za-z0-9_-]*(cuda|nv)[A-Za-z0-9_-]*\.so(\.[0-9]+)*))$`)

func runUninstaller(ctx context.Context, c *lxc.Container, installed version.Driver, timeout time.Duration, log say.Log) (done bool, err error) {
	args := []string{"/usr/bin/nvidia-uninstall", "--silent"}
	for _, o := range []struct {
		name  string
		since version.Driver
	}{{"--skip-module-unload", "331.20"}, {"--no-distro-scripts", "177.67"}, {"--skip-depmod", "418.30"}} {
		if version.Compare(installed, o.since) >= 0 {
			args = append(args, o.name)
		}
	}
	log.Debugf("running %s", strings.Join(args, " "))
	result, err := c.Run(ctx, lxc.Cmd{
		Args:    args,
		Env:     []string{"PATH=" + stageBin + ":" + lxc.Path, "TMPDIR=" + stageTmp},
		Timeout: timeout,
		OnLine:  debugLines(log, "uninstaller"),
		Reap:    true,
	})
	switch {
	case errors.Is(err, lxc.ErrDeadline):
		return false, hint.Errorf(cmp.Or(hint.Of(err), `see whether its processes hang (ps in the container), or raise "timeout" under [install]`),
			"nvidia-uninstall %s did not end within %v and was ended", installed, timeout)
	case err != nil:
		return false, fmt.Errorf("remove driver %s from the container: %w", installed, err)
	}
	if result.Code != 0 {
		// Not the end: the new version's installer removes by the same log.
		log.Warnf("nvidia-uninstall %s ended with exit status %d: %s", installed, result.Code, result.LastLine())
	}
	return result.Code == 0, nil
}
