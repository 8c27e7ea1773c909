package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// service stands for a program that is started at boot and wants a GPU. It has the
// name of one that the hook knows, and notes which driver it finds.
const (
	service = "ollama.service"
	unit    = `[Service]
ExecStart=/bin/sh -c 'readlink /usr/lib/*/libcuda.so.1 || echo no driver; exec sleep infinity'
StandardOutput=append:/root/seen
`
)

// give puts the service into a container that is not running.
func give(c *lab.Container) error {
	file := filepath.Join(c.Root, "etc/systemd/system", service)
	wants := filepath.Join(filepath.Dir(file), "multi-user.target.wants")
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink("../"+service, filepath.Join(wants, service))
}

// seen waits until the service has been started n times, and says what it found the
// last time.
func seen(ctx context.Context, c *lab.Container, n int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		text, _ := os.ReadFile(filepath.Join(c.Root, "root/seen"))
		if lines := strings.Split(strings.TrimSpace(string(text)), "\n"); len(text) > 0 && len(lines) >= n {
			return lines[n-1], nil
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(fmt.Errorf("%s has not been started %d times", service, n), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
