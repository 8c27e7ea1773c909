package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// space measures what is not time: memory, the container's disk, the program's
// own size. Its installations are watched and so not timed.
func space(ctx context.Context, s *stand) (section, error) {
	done := section{title: "Memory and disk"}
	add := func(name, note string, k kind, value int64) {
		done.rows = append(done.rows, row{name: name, note: note, kind: k, unit: inBytes, samples: []float64{float64(value)}})
	}
	binary, err := os.Stat(s.Program)
	if err != nil {
		return done, err
	}
	add("binary", "stripped", ours, binary.Size())
	if !s.quick {
		if size, err := s.packageSize(ctx); err == nil {
			add("Debian package", "amd64", ours, size)
		} else if ctx.Err() == nil {
			s.say("the package could not be built and is left out: %v", err)
		}
	}
	for _, c := range []struct {
		name, how string
		cold      bool
	}{{"first install, mount", "mount", true}, {"install by mount, run file cached", "mount", false}, {"install by push, run file cached", "push", false}} {
		s.say("memory and disk: %s", c.name)
		if err := errors.Join(s.deliver(c.how), s.emptyWhen(c.cold)); err != nil {
			return done, err
		}
		u, err := s.watched(ctx, s.hook)
		if err != nil {
			return done, fmt.Errorf("%s: %w", c.name, err)
		}
		add("peak memory of "+hookName+", "+c.name, "VmHWM of its two processes", ours, u.memory)
		if !c.cold {
			if c.how == "mount" {
				add("written to the container and left there", "the driver, and a record of some kB", floor, u.left)
			}
			add("written to the container and removed, "+hookName+", "+c.how, u.what(), ours, u.temporary)
			add("of it the run file and its contents, "+hookName+", "+c.how, "", ours, u.ofRunFile)
		}
	}
	if err := s.fill(ctx); err != nil {
		return done, err
	}
	s.say("memory and disk: %s", shellName)
	u, err := s.watched(ctx, s.shell)
	if err != nil {
		return done, err
	}
	add("written to the container and removed, "+shellName, u.what(), theirs, u.temporary)
	return done, nil
}

func (s *stand) emptyWhen(cold bool) error {
	if !cold {
		return nil
	}
	return s.empty()
}

// usage is what one installation took.
type usage struct {
	memory    int64 // bytes; the most that the hook's two processes held
	temporary int64 // bytes written to the container that were gone in the end
	ofRunFile int64 // the part of them that is the run file, whole or unpacked
	left      int64 // bytes of what stayed in the container
	files     int   // how many files temporary counts
}

func (u usage) what() string { return fmt.Sprintf("%d files", u.files) }

// watched runs one installation and looks every few milliseconds at the process
// and at the container's disk. wait4's maximum is of no use for the memory: Linux
// counts what the parent held when it forked.
func (s *stand) watched(ctx context.Context, command func(context.Context, *lab.Container) *exec.Cmd) (u usage, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	c, err := s.guest(ctx)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	upper := filepath.Join(filepath.Dir(c.Root), "disk", "upper")
	most := map[string]int64{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	_, err = timed(ctx, command(ctx, c), func(pid int) {
		defer close(stopped)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			u.memory = max(u.memory, peakMemory(pid))
			for name, size := range written(upper) {
				most[name] = max(most[name], size)
			}
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	close(stop)
	if err != nil {
		return u, err
	}
	<-stopped
	if err := check(ctx, c); err != nil {
		return u, err
	}
	own, err := s.names()
	if err != nil {
		return u, err
	}
	left := written(upper)
	for _, size := range left {
		u.left += size
	}
	for name, size := range most {
		if _, stays := left[name]; stays {
			continue
		}
		u.temporary += size
		u.files++
		if own[filepath.Base(name)] {
			u.ofRunFile += size
		}
	}
	return u, nil
}

// names are the names of the run file and of all that is in it.
func (s *stand) names() (map[string]bool, error) {
	all := map[string]bool{filepath.Base(s.runFile): true}
	err := filepath.WalkDir(s.tree, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all[d.Name()] = true
		}
		return err
	})
	return all, err
}

// written returns the bytes on disk of every file that a container has written.
// What vanishes meanwhile is left out.
func written(upper string) map[string]int64 {
	all := map[string]int64{}
	filepath.WalkDir(upper, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			all[name] = info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return all
}

// peakMemory is the most that a process has held so far, and with it those of the
// same program that it has started; 0 when it has ended.
func peakMemory(pid int) int64 {
	sum := peak(strconv.Itoa(pid))
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			if its, err := os.Readlink("/proc/" + child + "/exe"); err == nil && its == program {
				sum += peak(child)
			}
		}
	}
	return sum
}

func peak(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kb int64
	fmt.Sscan(rest, &kb) // a zombie has no such line: 0
	return kb << 10
}

// packageSize builds the Debian package and returns its size in bytes.
func (s *stand) packageSize(ctx context.Context) (int64, error) {
	s.say("building the Debian package")
	dist := s.Path("dist")
	cmd := exec.CommandContext(ctx, "make", "-s", "-f", "packaging/deb.mk", "deb", "DEB_ARCHES=amd64", "DIST="+dist)
	cmd.Dir = s.module
	if _, err := timed(ctx, cmd, nil); err != nil {
		return 0, err
	}
	found, _ := filepath.Glob(filepath.Join(dist, "*_amd64.deb")) // the pattern is right
	if len(found) != 1 {
		return 0, fmt.Errorf("there are %d packages in %s", len(found), dist)
	}
	info, err := os.Stat(found[0])
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
