package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// versions are those of the sample run files: with the options of their time,
// of three parts and of two.
var versions = []string{"550.163.01", "580.142"}

// stand is a node with containers for one part. It lies in the lab's folder, so
// that the next lab removes it, should this process be killed.
type stand struct {
	*rig.Rig
	lab    *lab.Lab
	guests []*guest
}

// open makes a stand with containers 101, 102, ..., one for each spec.
func open(ctx context.Context, specs ...lab.Spec) (_ *stand, err error) {
	s := &stand{}
	if s.lab, err = lab.Open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	dir, samples := filepath.Join(s.lab.Dir, "torture"), filepath.Join(s.lab.Dir, "samples")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(samples, 0o755)); err != nil {
		return nil, err
	}
	program, err := rig.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if _, err := fakerun.Write(samples, fakerun.Spec{Version: v}); err != nil {
			return nil, err
		}
	}
	if s.Rig, err = rig.New(dir, program, s.lab.Path, samples); err != nil {
		return nil, err
	}
	s.Metrics = s.Path("collector", "hook.prom")
	if err := errors.Join(os.Mkdir(filepath.Dir(s.Metrics), 0o755), s.Configure(""), s.Module(versions[1])); err != nil {
		return nil, err
	}
	for i, spec := range specs {
		if spec.VMID == 0 {
			spec.VMID = 101 + i
		}
		if _, err := s.guest(ctx, spec); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// guest makes and starts one more container.
func (s *stand) guest(ctx context.Context, spec lab.Spec) (*guest, error) {
	c, err := s.lab.Container(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	g := &guest{Container: c, stand: s}
	s.guests = append(s.guests, g)
	return g, g.know(ctx)
}

func (s *stand) close() error {
	if s.Rig != nil {
		s.Rig.Close()
	}
	return s.lab.Close()
}
