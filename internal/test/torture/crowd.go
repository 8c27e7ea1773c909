package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// crowdSize is how many containers start at once.
const crowdSize = 60

// crowd starts many containers at once, a third of which want another version,
// each with two runs on it at a time, while the cache is pruned again and again.
func crowd(ctx context.Context, t *torture) (err error) {
	s, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	other := ""
	for i := range crowdSize {
		g, err := s.guest(ctx, lab.Spec{VMID: 601 + i, Privileged: i%2 == 0})
		if err != nil {
			return err
		}
		if i%3 == 0 {
			other += fmt.Sprintf("[containers.%d]\nversion = %q\non_mismatch = \"install\"\n", g.VMID, versions[0])
		}
	}
	if err := s.Configure(other); err != nil {
		return err
	}
	s.Mirror.Rate = 2 << 20 // slow enough for all to meet
	before := map[string]int{}
	for _, v := range versions {
		before[v] = s.Mirror.Gets(fakerun.Spec{Version: v}.Name())
	}

	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	stop := make(chan struct{})
	var all, pruners sync.WaitGroup
	var mu sync.Mutex
	installs := map[int]int{}
	note := func(name, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		r := t.table.at("crowd", name)
		r.failures = append(r.failures, fmt.Sprintf(format, args...))
	}
	const started, pruned, downloads = "60 containers at once, two versions, two runs each", "pruned meanwhile", "one download per version"
	for _, g := range s.guests {
		for range 2 {
			mu.Lock()
			t.table.at("crowd", started).tries++
			mu.Unlock()
			all.Go(func() {
				said, err := s.Hook(ctx, g.VMID, "post-start")
				if err != nil || said.Code != 0 {
					note(started, "container %d: exit status %d, %v: %s", g.VMID, said.Code, err, said.Text)
				}
				mu.Lock()
				installs[g.VMID] += strings.Count(said.Text, "ran in the container")
				mu.Unlock()
			})
		}
	}
	pruners.Go(func() {
		c := cache.Cache{Dir: s.Cache()}
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			// Both are wanted, as on a node that has containers of both: what is
			// in use or wanted must stay, whatever keep says.
			gone, err := c.Prune(ctx, 0, func(v version.Driver) bool {
				return v == version.Driver(versions[0]) || v == version.Driver(versions[1])
			})
			mu.Lock()
			t.table.at("crowd", pruned).tries++
			mu.Unlock()
			if err != nil {
				note(pruned, "%v", err)
			}
			for _, it := range gone {
				if it.State != cache.Partial {
					note(pruned, "it took %s, which is wanted", it.Version)
				}
			}
		}
	})
	all.Wait()
	close(stop)
	pruners.Wait()

	for i, g := range s.guests {
		v := versions[1]
		if i%3 == 0 {
			v = versions[0]
		}
		r := t.table.at("crowd", "each installed once, with its version")
		r.tries++
		if installs[g.VMID] != 1 {
			r.failures = append(r.failures, fmt.Sprintf("container %d: installed %d times", g.VMID, installs[g.VMID]))
		}
		if err := errors.Join(g.holdsFiles(v), s.told(g.VMID, v)); err != nil {
			r.failures = append(r.failures, fmt.Sprintf("container %d: %v", g.VMID, err))
		}
	}
	for _, v := range versions {
		r := t.table.at("crowd", downloads)
		r.tries++
		if n := s.Mirror.Gets(fakerun.Spec{Version: v}.Name()) - before[v]; n != 1 {
			r.failures = append(r.failures, fmt.Sprintf("%s was asked for %d times", v, n))
		}
	}
	r := t.table.at("crowd", "nothing left locked or running")
	r.tries++
	if err := errors.Join(s.locksAreFree(), s.nothingRuns(), s.nothingHalf(), s.noTemporaries()); err != nil {
		r.failures = append(r.failures, err.Error())
	}
	return crowdInUse(ctx, t, s)
}

// crowdInUse prunes everything that is not in use while containers install: what
// they use must stay.
func crowdInUse(ctx context.Context, t *torture, s *stand) error {
	r := t.table.at("crowd", "pruned to nothing while in use")
	c := cache.Cache{Dir: s.Cache()}
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, g := range s.guests[:6] {
		if err := g.fault("slow=0.01"); err != nil {
			return err
		}
		r.tries++
		all.Go(func() {
			said, err := s.Run(ctx, "replay", strconv.Itoa(g.VMID), "post-start", "--force")
			if err != nil || said.Code != 0 {
				mu.Lock()
				defer mu.Unlock()
				r.failures = append(r.failures, fmt.Sprintf("container %d: %v: %s", g.VMID, err, said.Text))
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); all.Wait() }()
	for {
		select {
		case <-done:
			_, err := c.Prune(ctx, 0, nil)
			if left, _ := filepath.Glob(filepath.Join(s.Cache(), "NVIDIA-*")); err == nil && len(left) > 0 {
				err = fmt.Errorf("prune left %v", left)
			}
			return err
		case <-time.After(30 * time.Millisecond):
			if _, err := c.Prune(ctx, 0, nil); err != nil {
				return err
			}
		}
	}
}

// holdsFiles is holds without nvidia-smi, which a driver ahead of the host's
// module does not answer.
func (g *guest) holdsFiles(version string) error {
	got, err := g.claims()
	if err != nil {
		return err
	}
	if got != version {
		return fmt.Errorf("the record names %q instead of %s", got, version)
	}
	if _, err := os.Stat(g.file("usr/lib/x86_64-linux-gnu/libcuda.so." + version)); err != nil {
		return err
	}
	return g.clean()
}
