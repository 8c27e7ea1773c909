package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// commandLimit ends what hangs. The slowest, eight shell hooks on a slow disk,
// take minutes.
const commandLimit = 15 * time.Minute

// insidePath is the PATH in the container, the same for all contenders.
const insidePath = "/usr/sbin:/usr/bin:/sbin:/bin"

// timed runs a command to its end, with its output in a pipe as under Proxmox VE.
// seen, when set, is called with the process id while the command runs.
func timed(ctx context.Context, cmd *exec.Cmd, seen func(pid int)) (time.Duration, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	// Ctrl-C must end lxc-attach and curl too, not only the shell.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if seen != nil {
		go seen(cmd.Process.Pid)
	}
	err := cmd.Wait()
	took := time.Since(began)
	if err != nil {
		text := out.String()
		return 0, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, text[max(0, len(text)-2000):])
	}
	return took, ctx.Err()
}

// hook is the call of the program that Proxmox VE makes.
func (s *stand) hook(ctx context.Context, c *lab.Container) *exec.Cmd {
	return s.Command(ctx, strconv.Itoa(c.VMID), "post-start")
}

// url is the mirror's folder of driver versions.
func (s *stand) url() string {
	front, _, _ := strings.Cut(s.Mirror.URL(), "{os_arch}")
	return front + "Linux-x86_64"
}

func (s *stand) shellCache() string { return s.Path("shell-cache") }

// shell is the same call of the shell hook.
func (s *stand) shell(ctx context.Context, c *lab.Container) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.module, "contrib/shell-hook/nvidia-hook.sh"), strconv.Itoa(c.VMID), "post-start")
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/sbin:/bin:/usr/sbin:/usr/bin",
		"LC_ALL=C",
		"CURL_CA_BUNDLE=" + s.Mirror.Cert,
		"NVIDIA_HOOK_URL=" + s.url(),
		"NVIDIA_HOOK_CACHE=" + s.shellCache(),
		"NVIDIA_HOOK_LXC=" + s.LXCPath,
		"NVIDIA_HOOK_MODULE=" + s.Path("host/proc/driver/nvidia/version"),
	}
	return cmd
}

// treeInside is where the installer alone finds its files: the container was
// started with a bind mount of them.
const treeInside = "/opt/driver"

func (s *stand) withTree() string {
	return fmt.Sprintf("lxc.mount.entry = %s %s none bind,ro,create=dir 0 0", s.tree, treeInside[1:])
}

// everything is all of the driver that is for 64 bits.
var everything = driver.Capabilities([]string{"compute", "utility", "video", "graphics", "display"})

// installer is NVIDIA's installer alone, with the options that both hooks give it.
func (s *stand) installer(ctx context.Context, c *lab.Container) *exec.Cmd {
	args := []string{"-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "--clear-env", "-v", "PATH=" + insidePath,
		"--", treeInside + "/nvidia-installer"}
	return exec.CommandContext(ctx, "lxc-attach", append(args, driver.Job{Report: s.unpacked, Capabilities: everything}.Options()...)...)
}

// smi is the least that the shell hook can do to learn the installed version.
func (s *stand) smi(ctx context.Context, c *lab.Container) *exec.Cmd {
	return exec.CommandContext(ctx, "lxc-attach", "-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "--clear-env", "-v", "PATH="+insidePath,
		"--", "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
}

func (s *stand) lxcInfo(ctx context.Context, c *lab.Container) *exec.Cmd {
	return exec.CommandContext(ctx, "lxc-info", "-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "-p", "-H")
}

// check expects a working driver in the container: what was not installed was
// not measured.
func check(ctx context.Context, c *lab.Container) error {
	said, err := c.Attach(ctx, "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
	if err != nil {
		return err
	}
	if first, _, _ := strings.Cut(said, "\n"); first != driverVersion { // a line for each GPU
		return fmt.Errorf("nvidia-smi in container %d says %q", c.VMID, said)
	}
	lib := filepath.Join(c.Root, "usr/lib/x86_64-linux-gnu/libcuda.so."+driverVersion)
	if info, err := os.Stat(lib); err != nil || info.Size() == 0 {
		return fmt.Errorf("container %d has no libcuda.so.%s", c.VMID, driverVersion)
	}
	return nil
}
