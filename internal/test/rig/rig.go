// Package rig surrounds the program with what a node would give it: facts of a
// host, a configuration, a mirror of run files, and calls as Proxmox makes them.
package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/mirror"
)

// Rig is one such node.
type Rig struct {
	Dir     string // everything of the rig
	Program string // the binary
	LXCPath string
	Mirror  *mirror.Server
	Env     []string // further variables for the program
	Metrics string   // the file that Configure names for the metrics; "": none
}

// Build compiles the program into dir and returns the binary's path. The
// working directory is anywhere in the module. Called by a test that runs with
// -race, the program has the race detector too.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "pve-nvidia-hook")
	// No VCS stamp: git refuses root a checkout that is somebody else's.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary}
	cgo := "CGO_ENABLED=0"
	if raced {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/thinkheads-ai/pve-nvidia-hook")...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return binary, nil
}

// New makes a rig in the empty folder dir. samples is the folder that its
// mirror serves.
func New(dir, program, lxcPath, samples string) (*Rig, error) {
	m, err := mirror.Serve(samples, dir)
	if err != nil {
		return nil, err
	}
	r := &Rig{Dir: dir, Program: program, LXCPath: lxcPath, Mirror: m}
	if err := r.Configure(""); err != nil {
		m.Close()
		return nil, err
	}
	return r, nil
}

// Close stops the rig's mirror; its folder stays.
func (r *Rig) Close() { r.Mirror.Close() }

// Path returns a path in the rig's folder.
func (r *Rig) Path(elem ...string) string {
	return filepath.Join(append([]string{r.Dir}, elem...)...)
}

// FailedAtLength has the last failure of a container count as one that took a
// minute. One that took seconds is not held back.
func (r *Rig) FailedAtLength(vmid int) error {
	file := r.Path("state", "failures", strconv.Itoa(vmid)+".json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var failure map[string]any
	if err := json.Unmarshal(text, &failure); err != nil {
		return err
	}
	failure["seconds"] = 60
	if text, err = json.Marshal(failure); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// Cache is the rig's cache folder.
func (r *Rig) Cache() string { return r.Path("cache") }

// Module loads (or, for "", unloads) the kernel module of a version, as far as
// the host's files tell of it.
func (r *Rig) Module(version string) error {
	file := r.Path("host/proc/driver/nvidia/version")
	if version == "" {
		return os.RemoveAll(file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  %s  Release Build  (builder@host)  Tue Mar  3 19:14:46 UTC 2026\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n", version)
	return os.WriteFile(file, []byte(text), 0o644)
}

// Configure writes config.toml: the rig's folders, and what is given besides,
// which stands first and may open sections of its own but not [cache] and [paths].
func (r *Rig) Configure(extra string) error {
	if !strings.Contains(extra, "[driver]") {
		extra = "[driver]\n" + extra
	}
	extra = strings.Replace(extra, "[driver]", fmt.Sprintf("[driver]\nurls = [%q]", r.Mirror.URL()), 1)
	text := fmt.Sprintf("%s\n[cache]\ndir = %q\nlock_timeout = \"2m\"\n[paths]\nstate = %q\nrun = %q\nlxc = %q\nmetrics = %q\n",
		extra, r.Cache(), r.Path("state"), r.Path("run"), r.LXCPath, r.Metrics)
	return os.WriteFile(r.Path("config.toml"), []byte(text), 0o644)
}

// Said is what a call of the program came to.
type Said struct {
	Code    int
	Text    string // stdout and stderr as they came
	Elapsed time.Duration
}

// Hook calls the program as Proxmox does.
func (r *Rig) Hook(ctx context.Context, vmid int, phase string) (Said, error) {
	return r.Run(ctx, strconv.Itoa(vmid), phase)
}

// Run calls the program in the environment that Proxmox gives a hookscript:
// stdin at its end, no HOME, a fixed PATH.
func (r *Rig) Run(ctx context.Context, args ...string) (Said, error) {
	cmd := r.Command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	said := Said{Code: cmd.ProcessState.ExitCode(), Text: out.String(), Elapsed: time.Since(began)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	if raced && strings.Contains(said.Text, "WARNING: DATA RACE") {
		// Its exit status tells of it only where it would have been 0.
		err = errors.New("there is a data race in the program")
	}
	return said, err
}

// Command is the call that Run makes, for callers that want to watch or kill it.
func (r *Rig) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.Program, args...)
	cmd.Dir = "/"
	// As Proxmox does when a task is stopped.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append([]string{
		"PATH=/sbin:/bin:/usr/sbin:/usr/bin",
		"LC_ALL=C",
		"SSL_CERT_FILE=" + r.Mirror.Cert,
		"PVE_NVIDIA_HOOK_CONFIG=" + r.Path("config.toml"),
		"PVE_NVIDIA_HOOK_HOST_ROOT=" + r.Path("host"),
	}, r.Env...)
	return cmd
}
