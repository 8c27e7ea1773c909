package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// guest is a container that is tortured.
type guest struct {
	*lab.Container
	stand *stand
	init  int             // process id of its init
	ns    string          // its pid namespace
	usual map[string]bool // commands that always run in it
}

// know learns the container's init process; also after it was started again.
func (g *guest) know(ctx context.Context) (err error) {
	if g.init, err = g.Pid(ctx); err != nil {
		return err
	}
	g.ns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.init))
	g.usual = map[string]bool{"lab-init": true, "sleep": true, "bash": true}
	return err
}

func (g *guest) file(elem ...string) string {
	return filepath.Join(append([]string{g.Root}, elem...)...)
}

// fault tells the sample installer what to do wrong; "" nothing.
func (g *guest) fault(text string) error {
	if text == "" {
		return os.RemoveAll(g.file("etc/sample-nvidia-installer"))
	}
	return os.WriteFile(g.file("etc/sample-nvidia-installer"), []byte(text+"\n"), 0o644)
}

// forget removes a driver and every trace of one.
func (g *guest) forget() error {
	var all []string
	for _, pattern := range []string{
		"usr/bin/nvidia-*", "usr/lib/x86_64-linux-gnu/lib*.so." + versions[0], "usr/lib/x86_64-linux-gnu/lib*.so." + versions[1],
		"usr/lib/x86_64-linux-gnu/libcuda*", "usr/lib/x86_64-linux-gnu/libnvidia*", "var/lib/nvidia", "var/lib/pve-nvidia-hook/*",
	} {
		found, err := filepath.Glob(g.file(pattern))
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	var errs []error
	for _, name := range all {
		errs = append(errs, os.RemoveAll(name))
	}
	return errors.Join(errs...)
}

// claims returns what is wrong with the container's record: it may be missing,
// but must not name what is not there. It returns the version it names too.
func (g *guest) claims() (version string, err error) {
	data, err := os.ReadFile(g.file(record.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var in record.Installed
	if err := json.Unmarshal(data, &in); err != nil {
		return "", fmt.Errorf("the record is half written: %w", err)
	}
	if in.Version != "" && len(in.Files) < 3 {
		return "", fmt.Errorf("the record of %s names only %d files", in.Version, len(in.Files))
	}
	for _, f := range in.Files {
		info, err := os.Lstat(g.file(f.Path))
		switch {
		case err != nil:
			return "", fmt.Errorf("the record claims %s, which is not there", f.Path)
		case f.Link != "":
			if to, err := os.Readlink(g.file(f.Path)); err != nil || to != f.Link {
				return "", fmt.Errorf("the record claims that %s leads to %s, not to %s", f.Path, f.Link, to)
			}
		case !info.Mode().IsRegular() || info.Size() != f.Size:
			return "", fmt.Errorf("the record claims %d bytes of %s, it has %d", f.Size, f.Path, info.Size())
		}
	}
	return string(in.Version), nil
}

// holds reports whether the container has a whole, recorded driver of a version
// and nothing is left of its installation.
func (g *guest) holds(ctx context.Context, version string) error {
	got, err := g.claims()
	if err != nil {
		return err
	}
	if got != version {
		return fmt.Errorf("the record names %q instead of %s", got, version)
	}
	out, err := g.Attach(ctx, "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
	if err != nil || !strings.Contains(out, version) {
		return fmt.Errorf("nvidia-smi says %q, %v", out, err)
	}
	return g.clean()
}

// clean reports what is left over: files, mounts and processes.
func (g *guest) clean() error {
	names, err := os.ReadDir(g.file(record.Folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range names {
		// What was begun stays beside the record: an uninstallation goes by both.
		if name := record.Folder + "/" + d.Name(); name != record.Path && name != record.BegunPath {
			return fmt.Errorf("%s/%s is left in the container", record.Folder, d.Name())
		}
	}
	for _, pattern := range []string{"tmp/*", "var/tmp/*", "root/selfgz*"} {
		if left, _ := filepath.Glob(g.file(pattern)); len(left) > 0 {
			return fmt.Errorf("%v are left in the container", left)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", g.init))
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte("pve-nvidia-hook/stage")) {
		return errors.New("a mount is left in the container")
	}
	return within(2*time.Second, g.quiet)
}

// quiet reports processes in the container that do not belong there.
func (g *guest) quiet() error {
	return eachProcess(func(pid int, dir string) error {
		ns, err := os.Readlink(dir + "/ns/pid")
		if err != nil || ns != g.ns || pid == g.init {
			return nil
		}
		comm, _ := os.ReadFile(dir + "/comm")
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		name := strings.TrimSpace(string(comm))
		if !g.usual[name] || bytes.Contains(cgroup, []byte("/pve-nvidia-hook.")) {
			if state(dir) != 'Z' {
				return fmt.Errorf("process %d (%s) is left in the container", pid, name)
			}
		}
		return nil
	})
}

// state is the letter of a process's state.
func state(dir string) byte {
	stat, err := os.ReadFile(dir + "/stat")
	if i := bytes.LastIndexByte(stat, ')'); err == nil && i >= 0 && len(stat) > i+2 {
		return stat[i+2]
	}
	return 'Z'
}

func eachProcess(f func(pid int, dir string) error) error {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, d := range names {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if err := f(pid, "/proc/"+d.Name()); err != nil {
			return err
		}
	}
	return nil
}

// within repeats a look for as long as it finds fault, up to a limit: what was
// killed takes a moment to go.
func within(limit time.Duration, look func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := look()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
