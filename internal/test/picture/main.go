// Command picture draws what the program says, from enable to doctor, as a picture
// of a terminal. The container, its start and the program are real; the GPU is a
// folder of a host's files, the run file a sample, and pct a stand-in.
//
//	go run ./internal/test/picture docs/terminal.svg
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

const (
	vmid    = 101
	version = "580.142"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: picture FILE.svg")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := picture(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "picture: error:", err)
		if h := hint.Of(err); h != "" {
			fmt.Fprintln(os.Stderr, "picture: hint:", h)
		}
		stop()
		os.Exit(1)
	}
}

func picture(ctx context.Context, file string) (err error) {
	if err := lab.Missing(); err != nil {
		return err
	}
	l, err := lab.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	text, err := session(ctx, l)
	if err != nil {
		return err
	}
	fmt.Print(text)
	return os.WriteFile(file, []byte(draw(text)), 0o644)
}

// session is what a terminal shows: commands and what they say.
func session(ctx context.Context, l *lab.Lab) (string, error) {
	dir := filepath.Join(l.Dir, "picture")
	samples, bin := filepath.Join(dir, "samples"), filepath.Join(dir, "bin")
	for _, d := range []string{dir, samples, bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	if _, err := fakerun.Write(samples, fakerun.Spec{Version: version}); err != nil {
		return "", err
	}
	program, err := rig.Build(ctx, dir)
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(bin, "pct"), "github.com/thinkheads-ai/pve-nvidia-hook/internal/test/fakepct")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pct: %w: %s", err, out)
	}
	r, err := rig.New(dir, program, l.Path, samples)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if err := errors.Join(r.Module(version), host(r.Path("host"))); err != nil {
		return "", err
	}
	r.Env = []string{"PATH=" + bin + ":/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "FAKEPCT_LXCPATH=" + l.Path}
	var nodes []string
	for _, name := range []string{"nvidiactl", "nvidia0", "nvidia-uvm", "nvidia-uvm-tools"} {
		nodes = append(nodes, fmt.Sprintf("lxc.mount.entry = %s dev/%s none bind,create=file", r.Path("host/dev", name), name))
	}
	c, err := l.Container(ctx, lab.Spec{VMID: vmid, Systemd: true, ExtraConfig: nodes})
	if err != nil {
		return "", err
	}
	var screen strings.Builder
	show := func(command string, args ...string) error {
		said, err := r.Run(ctx, args...)
		fmt.Fprintf(&screen, "# %s\n%s", command, said.Text)
		if err == nil && said.Code != 0 {
			err = fmt.Errorf("%s: exit status %d: %s", command, said.Code, said.Text)
		}
		return err
	}
	if err := show("pve-nvidia-hook enable 101 --gpus all", "enable", "101", "--gpus", "all"); err != nil {
		return "", err
	}
	if err := c.Start(ctx); err != nil {
		return "", err
	}
	if err := show("pct start 101", "101", "post-start"); err != nil {
		return "", err
	}
	if err := show("pve-nvidia-hook status", "status"); err != nil {
		return "", err
	}
	err = show("pve-nvidia-hook doctor 101", "doctor", "101")
	return screen.String(), err
}

// host writes the files of a node on which all is well.
func host(root string) error {
	var errs []error
	for name, text := range map[string]string{
		"etc/pve/nodes/pve1/lxc/101.conf":                  "arch: amd64\nhostname: ollama\nunprivileged: 1\n",
		"etc/pve/storage.cfg":                              "dir: local\n\tpath /var/lib/vz\n",
		"proc/modules":                                     "nvidia_uvm 4571136 0 - Live 0x0\nnvidia 104165376 1 nvidia_uvm, Live 0x0\n",
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA A10\nGPU UUID: \t GPU-5c4f7f3e-8a43-4b1c-9d0e-2f6b7a1c0d42\nDevice Minor: \t 0\n",
		"proc/devices":                                     "Character devices:\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n",
		"dev/kmsg":                                         "4,800,5140900,-;nvidia: loading out-of-tree module taints kernel.\n",
		"usr/lib/systemd/system/pve-nvidia-hook-devices.service": "",
		"etc/systemd/system/multi-user.target.wants/.keep":       "",
		"usr/bin/pve-nvidia-hook":                                "",
		"usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + version:    "",
		"sys/bus/pci/devices/0000:01:00.0/vendor":                "0x10de\n",
		"sys/bus/pci/devices/0000:01:00.0/class":                 "0x030200\n",
		"sys/bus/pci/devices/0000:01:00.0/device":                "0x2236\n",
	} {
		file := filepath.Join(root, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755))
	}
	for name, target := range map[string]string{
		"etc/pve/local": "nodes/pve1",
		"etc/pve/lxc":   "nodes/pve1/lxc",
		"etc/systemd/system/multi-user.target.wants/pve-nvidia-hook-devices.service": "/usr/lib/systemd/system/pve-nvidia-hook-devices.service",
	} {
		errs = append(errs, os.Symlink(target, filepath.Join(root, name)))
	}
	return errors.Join(errs...)
}
