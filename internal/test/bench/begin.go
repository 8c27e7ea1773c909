package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// cudaInit is an init whose application wants libcuda: it writes down when the first
// process had it mapped, which it looks for every 50 ms.
const cudaInit = `#!/bin/sh
( until LD_PRELOAD=libcuda.so.1 cat /proc/self/maps 2>/dev/null | grep -q libcuda.so.` + driverVersion + `; do sleep 0.05; done
date +%s%N >/root/cuda.new; mv /root/cuda.new /root/cuda ) &
while :; do sleep infinity & wait; done
`

// begin measures what a container's application waits for: from the call of pre-start
// to its first process that has libcuda mapped, and how many bytes of it stay in the container.
func begin(ctx context.Context, s *stand) (section, error) {
	done := section{title: "From the start of a container to its first process with libcuda, the run file is cached"}
	if err := s.fill(ctx); err != nil {
		return done, err
	}
	// Once for a version of the driver, by the node's boot or the first start.
	vmid := strconv.Itoa(s.vmid)
	if err := s.deliver("share"); err != nil {
		return done, err
	}
	if _, err := timed(ctx, s.Command(ctx, vmid, "pre-start"), nil); err != nil {
		return done, err
	}
	var contenders []contender
	var sizes []row
	for _, way := range []struct {
		name, note, deliver string
		kind                kind
		again               bool // a start of a container that has its driver
		command             func(context.Context, *lab.Container) *exec.Cmd
	}{
		{hookName + ", shared, first start", "", "share", ours, false, s.hook},
		{hookName + ", shared, each later start", "also the one after an upgrade of the host", "share", ours, true, s.hook},
		{hookName + ", installed, first start", "an upgrade of the host takes as long", "mount", ours, false, s.hook},
		{hookName + ", installed, each later start", "", "mount", ours, true, s.hook},
		{shellName + ", first start", "", "mount", theirs, false, s.shell},
	} {
		at := len(sizes)
		if !way.again {
			sizes = append(sizes, row{name: "left in the container, " + way.name, kind: way.kind, unit: inBytes})
		}
		contenders = append(contenders, contender{name: way.name, note: way.note, kind: way.kind, run: func(ctx context.Context) (took time.Duration, err error) {
			ctx, cancel := context.WithTimeout(ctx, commandLimit)
			defer cancel()
			if err := s.deliver(way.deliver); err != nil {
				return 0, err
			}
			spec := lab.Spec{}
			if way.deliver == "share" {
				spec.ExtraConfig = []string{strings.Replace(pve.ShareEntry(s.Path("run/driver"), s.Path("run/driver-folders"), false), ":", " =", 1)}
			}
			c, err := s.make(ctx, spec)
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			if err := os.WriteFile(filepath.Join(c.Root, "usr/local/sbin/lab-init"), []byte(cudaInit), 0o755); err != nil {
				return 0, err
			}
			upper := filepath.Join(filepath.Dir(c.Root), "disk", "upper")
			before := written(upper)
			if took, err = s.toCUDA(ctx, c, way.command); err != nil {
				return 0, err
			}
			if !way.again {
				after := written(upper)
				maps.DeleteFunc(after, func(name string, _ int64) bool {
					_, was := before[name]
					return was || strings.HasSuffix(name, "/root/cuda")
				})
				var left int64
				for _, size := range after {
					left += size
				}
				sizes[at].samples = []float64{float64(left)}
				return took, nil
			}
			if err := errors.Join(c.Stop(), os.Remove(filepath.Join(c.Root, "root/cuda"))); err != nil {
				return 0, err
			}
			return s.toCUDA(ctx, c, way.command)
		}})
	}
	rows, err := interleave(ctx, s, "start to libcuda", s.runs, contenders)
	done.rows = append(rows, sizes...)
	return done, errors.Join(err, s.deliver("auto"))
}

// toCUDA starts a container as Proxmox VE does and returns when its first process had
// libcuda, counted from the call of pre-start.
func (s *stand) toCUDA(ctx context.Context, c *lab.Container, command func(context.Context, *lab.Container) *exec.Cmd) (time.Duration, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	pre := command(ctx, c)
	pre.Args[len(pre.Args)-1] = "pre-start"
	began := time.Now()
	if _, err := timed(ctx, pre, nil); err != nil {
		return 0, err
	}
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	if _, err := timed(ctx, command(ctx, c), nil); err != nil {
		return 0, err
	}
	for {
		text, err := os.ReadFile(filepath.Join(c.Root, "root/cuda"))
		if err == nil {
			at, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			return time.Unix(0, at).Sub(began), err
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("container %d has no process with libcuda: %w", c.VMID, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
