package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// whole is what a cache's final names must hold: a digest for each.
type whole map[string]string

// learn takes the cache as it is after a run that went well.
func (s *stand) learn() (whole, error) {
	w := whole{}
	return w, s.eachFinal(func(name string) error {
		sum, err := digest(filepath.Join(s.Cache(), name))
		w[name] = sum
		return err
	})
}

// cacheIsWhole reports a final name in the cache with anything but its whole content.
func (s *stand) cacheIsWhole(want whole) error {
	return s.eachFinal(func(name string) error {
		sum, err := digest(filepath.Join(s.Cache(), name))
		if err != nil {
			return err
		}
		if sum != want[name] {
			return fmt.Errorf("%s in the cache is not whole", name)
		}
		return nil
	})
}

// eachFinal calls f for each run file and each unpacked tree.
func (s *stand) eachFinal(f func(name string) error) error {
	names, err := os.ReadDir(s.Cache())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range names {
		name := d.Name()
		final := strings.HasPrefix(name, "NVIDIA-") && (strings.HasSuffix(name, ".run") || d.IsDir() && !strings.Contains(name, ".tree."))
		if !final {
			continue
		}
		if err := f(name); err != nil {
			return err
		}
	}
	return err
}

// digest is of a file's content, or of all names, modes, links and contents of a folder.
func digest(top string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %v\n", strings.TrimPrefix(name, top), info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			fmt.Fprintln(h, to)
			return err
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			h.Write(data)
			return err
		}
		return nil
	})
	return string(h.Sum(nil)), err
}

// nothingHalf reports what a finished run must not leave on the host.
func (s *stand) nothingHalf() error {
	names, err := os.ReadDir(s.Cache())
	if err != nil {
		return err
	}
	for _, d := range names {
		name := d.Name()
		if strings.HasPrefix(name, ".") || strings.Contains(name, ".tree.") || strings.Contains(name, ".part") {
			return fmt.Errorf("%s is left in the cache", name)
		}
	}
	return s.stateIsWhole()
}

// cacheHolds reports what a run that installed a version must have left there.
func (s *stand) cacheHolds(version string) error {
	base := filepath.Join(s.Cache(), "NVIDIA-Linux-x86_64-"+version)
	_, tree := os.Lstat(base)
	_, run := os.Lstat(base + ".run")
	return errors.Join(tree, run)
}

// stateIsWhole reports a trace that is not whole, or metrics that are not.
func (s *stand) stateIsWhole() error {
	metrics, err := os.ReadFile(s.Metrics)
	if err == nil && !(bytes.HasSuffix(metrics, []byte("\n")) && bytes.Contains(metrics, []byte("\n# TYPE pve_nvidia_hook_host_module_info "))) {
		return fmt.Errorf("the metrics are half written: %q", metrics)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return filepath.WalkDir(s.Path("state"), func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !json.Valid(data) {
			return fmt.Errorf("%s is half written", name)
		}
		return nil
	})
}

// noTemporaries reports files beside the cache that only a run that was broken off leaves.
func (s *stand) noTemporaries() error {
	for _, dir := range []string{s.Path("state"), s.Path("run"), filepath.Dir(s.Metrics)} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			switch filepath.Ext(name) {
			case ".json", ".lock", ".prom":
				if !strings.HasPrefix(d.Name(), ".") {
					return nil
				}
			}
			return fmt.Errorf("%s is left on the host", strings.TrimPrefix(name, s.Dir))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// told reports a container of which the metrics do not tell that it has a version.
func (s *stand) told(vmid int, version string) error {
	metrics, err := os.ReadFile(s.Metrics)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("pve_nvidia_hook_driver_info{vmid=%q,wanted=%q,installed=%q,shared=\"no\"} 1\n", strconv.Itoa(vmid), version, version)
	if !strings.Contains(string(metrics), want) {
		return fmt.Errorf("the metrics do not tell of %s in container %d: %s", version, vmid, metrics)
	}
	return nil
}

// locksAreFree reports a lock that somebody still holds.
func (s *stand) locksAreFree() error {
	var files []string
	for _, pattern := range []string{s.Path("run", "*.lock"), filepath.Join(s.Cache(), "*.lock"), s.Path("state", "runs", "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s is still locked", filepath.Base(name))
		}
	}
	return nil
}

// nothingRuns reports processes on the host that a hook has left: its own, and
// lxc-attach, which ends with it.
func (s *stand) nothingRuns() error {
	return within(2*time.Second, func() error {
		return eachProcess(func(pid int, dir string) error {
			line, _ := os.ReadFile(dir + "/cmdline")
			first, _, _ := bytes.Cut(line, []byte{0})
			base := filepath.Base(string(first))
			ours := string(first) == s.Program || base == "lxc-attach" && bytes.Contains(line, []byte(s.LXCPath))
			if ours && state(dir) != 'Z' {
				return fmt.Errorf("process %d (%s) is left on the host", pid, base)
			}
			return nil
		})
	})
}
