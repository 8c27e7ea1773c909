package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

const (
	driverVersion = "580.142"
	lineRate      = 125_000_000 // bytes a second: 1 Gbit/s
)

// stand is what all measurements share. Everything lies in the lab's folder, so
// that the next lab that is opened removes it, should this process be killed.
type stand struct {
	options
	*rig.Rig
	lab      *lab.Lab
	module   string // root of the source
	runFile  string // in the folder that the mirror serves
	tree     string // the same unpacked, for the installer alone
	unpacked runfile.Report
	progress io.Writer
	vmid     int // of the last container
}

func open(ctx context.Context, o options, progress io.Writer) (_ *stand, err error) {
	for _, need := range []string{"curl", "flock", "sha256sum"} {
		if _, err := exec.LookPath(need); err != nil {
			return nil, hint.Errorf("apt-get install --no-install-recommends curl util-linux coreutils", "the shell hook needs %s", need)
		}
	}
	s := &stand{options: o, progress: progress, vmid: 100}
	if s.module, err = moduleRoot(); err != nil {
		return nil, err
	}
	if s.lab, err = lab.Open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	dir := filepath.Join(s.lab.Dir, "bench")
	samples := filepath.Join(s.lab.Dir, "samples")
	for _, d := range []string{dir, samples} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	program := o.program
	if program == "" {
		s.say("building the program")
		if program, err = rig.Build(ctx, dir); err != nil {
			return nil, err
		}
	} else if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	if s.Rig, err = rig.New(dir, program, s.lab.Path, samples); err != nil {
		return nil, err
	}
	s.Mirror.Rate = lineRate
	if err := onTmpfs(s.Path("run")); err != nil {
		return nil, err
	}
	if err := s.Module(driverVersion); err != nil {
		return nil, err
	}
	s.say("writing a sample run file")
	if s.runFile, err = fakerun.Write(samples, fakerun.Spec{Version: driverVersion, Size: o.size}); err != nil {
		return nil, err
	}
	s.tree = filepath.Join(s.lab.Dir, "tree")
	if _, err = s.unpack(ctx, s.tree); err != nil {
		return nil, err
	}
	// The writer of the sample has grown this process; children that are forked
	// from a smaller one start quicker.
	runtime.GC()
	return s, nil
}

func (s *stand) close() error {
	s.say("removing all that was made")
	if s.Rig != nil {
		s.Rig.Close()
	}
	return s.lab.Close()
}

func (s *stand) say(format string, args ...any) {
	fmt.Fprintf(s.progress, "bench: "+format+"\n", args...)
}

// describe says what the sample run file is like.
func (s *stand) describe() string {
	return fmt.Sprintf("a sample run file of %s that unpacks to %s in %d files",
		inBytes.format(float64(s.unpacked.Size)), inBytes.format(float64(s.unpacked.Unpacked)), s.unpacked.Files)
}

// unpack unpacks the run file as the hook does, without a download.
func (s *stand) unpack(ctx context.Context, dir string) (time.Duration, error) {
	f, err := os.Open(s.runFile)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	began := time.Now()
	s.unpacked, err = runfile.Unpack(ctx, f, dir, runfile.Want{Version: driverVersion})
	return time.Since(began), err
}

// withZstd has the decompressor that NVIDIA's run files carry themselves, in C.
// The one that a sample carries is slower, and would do the shell hook wrong.
var withZstd = lab.Base{Name: "zstd", Suite: "bookworm", Add: []string{"zstd"}}

// guest makes and starts a fresh container. It has kmod's tools, as those of
// Proxmox VE's templates have: the shell hook and the installer alone need them.
func (s *stand) guest(ctx context.Context, config ...string) (*lab.Container, error) {
	return s.guestOf(ctx, lab.Spec{ExtraConfig: config})
}

func (s *stand) guestOf(ctx context.Context, spec lab.Spec) (*lab.Container, error) {
	c, err := s.make(ctx, spec)
	if err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}

// make makes a fresh container that does not run.
func (s *stand) make(ctx context.Context, spec lab.Spec) (*lab.Container, error) {
	s.vmid++
	spec.VMID = s.vmid
	if !s.quick { // which spares a smoke test the half minute that a base root takes
		spec.Base = &withZstd
	}
	c, err := s.lab.Container(ctx, spec)
	if err != nil {
		return nil, err
	}
	for _, tool := range []string{"modprobe", "rmmod", "lsmod", "depmod"} {
		if err := os.WriteFile(filepath.Join(c.Root, "usr/sbin", tool), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// onTmpfs makes a folder that lies in memory, as /run does on every node.
func onTmpfs(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bench", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// deliver sets how the hook hands the run file over.
func (s *stand) deliver(how string) error {
	return s.Configure("[install]\ndeliver = \"" + how + "\"\n")
}

// moduleRoot is the folder of go.mod, above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", hint.Errorf("run it in a checkout of the source: go run ./internal/test/bench", "there is no go.mod here or above")
}
