package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// clean is what a person has on a fresh machine besides Go.
var clean = []string{"systemd-sysv", "dbus", "ca-certificates", "git", "make"}

// bootLimit is for the container's systemd.
const bootLimit = time.Minute

// passed are the variables that say how this machine reaches packages and modules.
var passed = []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOFLAGS", "CI"}

// runIn clones the commit that is checked out into a clean container of a suite of
// Debian, which boots systemd and runs containers of its own, and runs a command there.
func runIn(ctx context.Context, suite, command string) (err error) {
	goRoot, err := goEnv(ctx, "GOROOT")
	if err != nil {
		return err
	}
	modules, err := goEnv(ctx, "GOMODCACHE")
	if err != nil {
		return err
	}
	modules = filepath.Join(modules, "cache/download")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	l, err := lab.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	base := lab.Base{Name: "clean", Suite: suite, Add: clean}
	fmt.Printf("suite: making a clean container of Debian %s\n", suite)
	c, err := l.Container(ctx, lab.Spec{VMID: 900, Privileged: true, HostNet: true, Plain: true, Base: &base, ExtraConfig: append(lab.Host(),
		"lxc.seccomp.profile =", // LXC's own forbids what root of a machine may do
		"lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0",
		"lxc.mount.entry = "+goRoot+" usr/local/go none bind,ro,create=dir 0 0",
		// What this machine has fetched already need not be fetched again.
		"lxc.mount.entry = "+modules+" opt/modules none bind,ro,create=dir 0 0")})
	if err != nil {
		return err
	}
	if err := prepare(ctx, c); err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	booting, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := c.WaitBooted(booting); err != nil {
		return err
	}
	proxy, err := goEnv(ctx, "GOPROXY")
	if err != nil {
		return err
	}
	args := []string{"-P", c.LXCPath, "-n", strconv.Itoa(c.VMID), "--clear-env", "--", "env",
		"HOME=/root", "PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			args = append(args, name+"="+value)
		}
	}
	args = append(args, "GOPROXY=file:///opt/modules,"+proxy, "sh", "-c", "cd /root/pve-nvidia-hook && "+command)
	fmt.Printf("suite: %s\n", command)
	context.AfterFunc(ctx, func() { _ = c.Stop() }) // lxc-attach hands no signal on
	return run(ctx, "lxc-attach", args)
}

// prepare puts a clone into the container, and what lets it reach the network that
// this machine reaches.
func prepare(ctx context.Context, c *lab.Container) error {
	if changed, err := output(ctx, "git", "status", "--porcelain"); err != nil {
		return err
	} else if changed != "" {
		fmt.Println("suite: what is not committed is not in the clone")
	}
	if _, err := output(ctx, "git", "clone", "--quiet", "--no-hardlinks", ".", filepath.Join(c.Root, "root/pve-nvidia-hook")); err != nil {
		return err
	}
	for _, file := range []string{"/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		to := filepath.Join(c.Root, file)
		if err := errors.Join(os.RemoveAll(to), os.WriteFile(to, text, 0o644)); err != nil {
			return err
		}
	}
	// The package lxc would make a bridge, and this machine's network is the container's.
	return os.Symlink("/dev/null", filepath.Join(c.Root, "etc/systemd/system/lxc-net.service"))
}

func goEnv(ctx context.Context, name string) (string, error) {
	out, err := output(ctx, "go", "env", name)
	return strings.TrimSpace(out), err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, failed.Stderr)
	}
	return string(out), err
}
