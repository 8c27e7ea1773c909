package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
)

// node measures what grows with the number of containers of a node. One of them
// is real; the others have their configuration and the record of a run, and do
// not run.
func node(ctx context.Context, s *stand) (section, error) {
	done := section{title: "A node with many containers"}
	real, err := s.guestOf(ctx, lab.Spec{Plain: true})
	if err != nil {
		return done, err
	}
	defer real.Close()
	dir := filepath.Join(s.lab.Dir, "node")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return done, err
	}
	r, err := rig.New(dir, s.Program, s.LXCPath, filepath.Dir(s.runFile))
	if err != nil {
		return done, err
	}
	defer r.Close()
	if err := errors.Join(r.Module(driverVersion), onTmpfs(r.Path("run"))); err != nil {
		return done, err
	}
	if _, err := timed(ctx, r.Command(ctx, strconv.Itoa(real.VMID), "post-start"), nil); err != nil {
		return done, err
	}
	have := 0
	for _, n := range s.nodes {
		for ; have < n; have++ {
			if err := simulate(r, real.VMID, 100_000+have); err != nil {
				return done, fmt.Errorf("simulate a container: %w", err)
			}
		}
		rows, err := s.nodeOf(ctx, r, n, real.VMID)
		if err != nil {
			return done, err
		}
		done.rows = append(done.rows, rows...)
	}
	return done, nil
}

func (s *stand) nodeOf(ctx context.Context, r *rig.Rig, n, vmid int) ([]row, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	of := fmt.Sprintf(", %d containers", n)
	list := []contender{{name: "one skip at boot" + of, kind: ours, run: func(ctx context.Context) (time.Duration, error) {
		return timed(ctx, r.Command(ctx, strconv.Itoa(vmid), "post-start"), nil)
	}}}
	for _, args := range [][]string{{"status"}, {"apply", "--all", "--dry-run"}} {
		call := func(ctx context.Context) (time.Duration, error) { return timed(ctx, r.Command(ctx, args...), nil) }
		name := args[0]
		if name == "apply" {
			name = "apply --all --dry-run"
		}
		_, err := call(ctx)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 2 {
			s.say("this program has no %s; left out", name)
			continue
		}
		list = append(list, contender{name: name + of, kind: ours, run: call})
	}
	return interleave(ctx, s, fmt.Sprintf("a node of %d containers", n), s.runs, list)
}

// simulate makes the files that a container has on a node: what Proxmox VE, LXC
// and the hook keep of it.
func simulate(r *rig.Rig, like, vmid int) error {
	id := strconv.Itoa(vmid)
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	node := r.Path("host/etc/pve/nodes", host)
	conf := "arch: amd64\ncores: 2\nhostname: ct" + id + "\nhookscript: local:snippets/pve-nvidia-hook\nmemory: 2048\n" +
		"ostype: debian\nrootfs: local-lvm:vm-" + id + "-disk-0,size=8G\nunprivileged: 1\n" +
		"dev0: /dev/nvidia0,mode=0666\ndev1: /dev/nvidiactl,mode=0666\ndev2: /dev/nvidia-uvm,mode=0666\n"
	lxc := "lxc.uts.name = ct" + id + "\nlxc.rootfs.path = dir:" + r.Path("no-root") + "\n"
	for file, text := range map[string]string{
		filepath.Join(node, "lxc", id+".conf"): conf,
		filepath.Join(r.LXCPath, id, "config"): lxc,
		r.Path("host/etc/pve/storage.cfg"):     "dir: local\n\tpath /var/lib/vz\n\tcontent snippets\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	local := r.Path("host/etc/pve/local")
	if err := os.Symlink(filepath.Join("nodes", host), local); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.CopyFS(r.Path("state/runs", id), os.DirFS(r.Path("state/runs", strconv.Itoa(like))))
}
