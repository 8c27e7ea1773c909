package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// install times one installation in a fresh container.
func (s *stand) install(ctx context.Context, command func(context.Context, *lab.Container) *exec.Cmd, config ...string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	c, err := s.guest(ctx, config...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := s.settle(); err != nil {
		return 0, err
	}
	if took, err = timed(ctx, command(ctx, c), nil); err != nil {
		return 0, err
	}
	return took, check(ctx, c)
}

// fill gives both hooks a warm cache: the hook's own by an installation, the
// shell hook's by a copy of the file.
func (s *stand) fill(ctx context.Context) error {
	if err := s.deliver("auto"); err != nil {
		return err
	}
	if _, err := s.install(ctx, s.hook); err != nil {
		return fmt.Errorf("fill the cache: %w", err)
	}
	if err := os.MkdirAll(s.shellCache(), 0o755); err != nil {
		return err
	}
	err := os.Link(s.runFile, filepath.Join(s.shellCache(), filepath.Base(s.runFile)))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// empty takes away what both have cached.
func (s *stand) empty() error {
	return errors.Join(os.RemoveAll(s.Cache()), os.RemoveAll(s.shellCache()))
}

// warm measures an installation with the run file in the cache.
func warm(ctx context.Context, s *stand) (section, error) {
	if err := s.fill(ctx); err != nil {
		return section{}, err
	}
	by := func(how string) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			if err := s.deliver(how); err != nil {
				return 0, err
			}
			return s.install(ctx, s.hook)
		}
	}
	rows, err := interleave(ctx, s, "install, run file cached", s.runs, []contender{
		{name: hookName + ", mount", kind: ours, run: by("mount")},
		{name: hookName + ", push", kind: ours, run: by("push")},
		{name: shellName, kind: theirs, run: func(ctx context.Context) (time.Duration, error) { return s.install(ctx, s.shell) }},
		s.installerAlone(),
	})
	return section{title: "Install, the run file is cached", rows: rows}, err
}

func (s *stand) installerAlone() contender {
	return contender{name: "nvidia-installer alone", kind: floor, note: "on a tree mounted beforehand; checks nothing",
		run: func(ctx context.Context) (time.Duration, error) { return s.install(ctx, s.installer, s.withTree()) }}
}

// cold measures the first installation, which downloads.
func cold(ctx context.Context, s *stand) (section, error) {
	if err := s.deliver("auto"); err != nil {
		return section{}, err
	}
	fetching := func(command func(context.Context, *lab.Container) *exec.Cmd) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			if err := s.empty(); err != nil {
				return 0, err
			}
			return s.install(ctx, command)
		}
	}
	rows, err := interleave(ctx, s, "first install", s.runs, []contender{
		{name: hookName, kind: ours, run: fetching(s.hook)},
		{name: shellName, kind: theirs, run: fetching(s.shell)},
		{name: "download alone", kind: floor, note: "curl into a file", run: s.download},
		{name: "unpack alone", kind: floor, note: "hashed and unpacked by this program, not synced", run: s.unpackAgain},
		s.installerAlone(),
	})
	return section{title: "First install, the run file comes at 1 Gbit/s", rows: rows}, err
}

func (s *stand) download(ctx context.Context) (time.Duration, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	file := s.Path("download")
	defer os.Remove(file)
	cmd := exec.CommandContext(ctx, "curl", "-fsS", "--cacert", s.Mirror.Cert, "-o", file,
		s.url()+"/"+driverVersion+"/"+filepath.Base(s.runFile))
	return timed(ctx, cmd, nil)
}

func (s *stand) unpackAgain(ctx context.Context) (time.Duration, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	dir := s.Path("unpack")
	defer os.RemoveAll(dir)
	return s.unpack(ctx, dir)
}
