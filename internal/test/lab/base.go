package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Base names a root that containers stand on.
type Base struct {
	Name   string   // of its folder; another list of packages needs another name
	Suite  string   // of Debian
	Add    []string // packages besides those of mmdebstrap's variant minbase
	Frozen bool     // of a suite in the making the mirror may be a copy whose date has passed
}

// The base roots. Minimal has no init system, no kmod, no xz and no zstd.
// Node is a host of its own: containers run inside it.
var (
	Minimal = Base{Name: "minimal", Suite: "bookworm"}
	Systemd = Base{Name: "systemd", Suite: "bookworm", Add: []string{"systemd-sysv", "dbus"}}
	Node    = Base{Name: "node", Suite: "bookworm", Add: []string{
		"systemd-sysv", "dbus", "lxc", "uidmap", "kmod", "iproute2", "procps"}}
)

// buildLimit is for one base root; on a quick line it takes some 20 s.
const buildLimit = 10 * time.Minute

// Build makes the base root where it is missing, and its copy for unprivileged
// containers when shifted is true. It returns the folder. Several processes may
// call it at once: one builds, the others wait for it.
func Build(ctx context.Context, base Base, shifted bool) (string, error) {
	home, err := makeHome()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(home, "base", base.Suite+"-"+base.Name)
	want := filepath.Join(dir, "plain")
	if shifted {
		want = filepath.Join(dir, "shifted")
	}
	if isDir(want) {
		return want, nil
	}
	if err := openFolders(dir); err != nil {
		return "", err
	}
	lock, err := lockFileWait(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("wait for base root %s: %w", dir, err)
	}
	defer lock.Close()
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	// Under the lock nobody else builds: what bears a temporary name is dead.
	for _, half := range []string{"plain.tmp", "shifted.tmp"} {
		if err := demolish(filepath.Join(dir, half)); err != nil {
			return "", err
		}
	}
	plain := filepath.Join(dir, "plain")
	if !isDir(plain) {
		if err := into(plain, func(tmp string) error { return bootstrap(ctx, base, tmp) }); err != nil {
			return "", fmt.Errorf("build base root %s: %w", dir, err)
		}
	}
	if shifted && !isDir(want) {
		if err := into(want, func(tmp string) error { return shiftedCopy(ctx, plain, tmp) }); err != nil {
			return "", fmt.Errorf("build base root %s: %w", dir, err)
		}
	}
	return want, nil
}

func into(final string, fill func(tmp string) error) error {
	tmp := final + ".tmp"
	if err := fill(tmp); err != nil {
		return errors.Join(err, demolish(tmp))
	}
	return os.Rename(tmp, final)
}

// bootstrap lets mmdebstrap choose the mirror; where that fails and the machine
// runs the same suite, the machine's own sources are tried.
func bootstrap(ctx context.Context, base Base, dir string) error {
	args := []string{"--mode=root", "--variant=minbase", "--format=directory"}
	if base.Frozen {
		args = append(args, `--aptopt=Acquire::Check-Valid-Until "false"`)
	}
	if len(base.Add) > 0 {
		args = append(args, "--include="+strings.Join(base.Add, ","))
	}
	args = append(args, base.Suite, dir)
	err := command(ctx, "mmdebstrap", args...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	sources := hostSources(base.Suite)
	if len(sources) == 0 {
		return err
	}
	if err2 := demolish(dir); err2 != nil {
		return errors.Join(err, err2)
	}
	if err2 := command(ctx, "mmdebstrap", append(args, sources...)...); err2 != nil {
		return errors.Join(err, err2)
	}
	return nil
}

func hostSources(suite string) []string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(release), "VERSION_CODENAME="+suite) {
		return nil
	}
	var sources []string
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		found, _ := filepath.Glob(pattern)
		sources = append(sources, found...)
	}
	return sources
}

// shiftedCopy copies a root and moves all owners up by Shift.
func shiftedCopy(ctx context.Context, from, to string) error {
	if err := command(ctx, "cp", "-a", "--reflink=auto", from, to); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Uid >= Shift { // a second name of a file that was done already
			return nil
		}
		if err := os.Lchown(name, int(st.Uid)+Shift, int(st.Gid)+Shift); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		return unix.Chmod(name, st.Mode&0o7777) // chown has cleared setuid and setgid
	})
}

// ensureSubids enters the id range that unprivileged containers of root use.
func ensureSubids(home string) error {
	lock, err := lockFile(filepath.Join(home, "subid.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	line := fmt.Sprintf("root:%d:%d", Shift, IDs)
	for _, name := range []string{"/etc/subuid", "/etc/subgid"} {
		old, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if strings.Contains("\n"+string(old)+"\n", "\n"+line+"\n") {
			continue
		}
		if len(old) > 0 && old[len(old)-1] != '\n' {
			line = "\n" + line
		}
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line + "\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		line = strings.TrimPrefix(line, "\n")
	}
	return nil
}

// lockFileWait waits for a lock as long as ctx lasts.
func lockFileWait(ctx context.Context, name string) (*os.File, error) {
	for {
		f, err := lockFile(name, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func isDir(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir()
}

// command runs a program to its end; an error holds the last of what it said.
func command(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return string(out), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	text := strings.TrimSpace(string(out))
	if len(text) > 1500 {
		text = "..." + text[len(text)-1500:]
	}
	return string(out), fmt.Errorf("%s: %w: %s", name, err, text)
}
