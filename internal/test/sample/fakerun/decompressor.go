package fakerun

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

const decompressPackage = "github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun/decompress"

//go:embed decompress/main.go
var decompressSource []byte

var (
	built     = map[string][]byte{}
	builtLock sync.Mutex
)

// decompressor is the static program that is embedded in run files for arch. It is
// built by the go command and then kept in the user's cache folder.
func decompressor(arch string) ([]byte, error) {
	builtLock.Lock()
	defer builtLock.Unlock()
	if p, ok := built[arch]; ok {
		return p, nil
	}
	goarch := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]
	kept := keptAt(goarch)
	if kept != "" {
		if p, err := os.ReadFile(kept); err == nil {
			built[arch] = p
			return p, nil
		}
	}
	p, err := buildDecompressor(goarch)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("build the decompressor of a sample run file: %w", err),
			"run it in the source tree with go in PATH, or leave the decompressor out")
	}
	if kept != "" && os.MkdirAll(filepath.Dir(kept), 0o755) == nil {
		// Only the next run is slower when this fails.
		_ = renameio.WriteFile(kept, p, 0o644)
	}
	built[arch] = p
	return p, nil
}

// keptAt names the file that keeps the built program; "" when there is no home for it. A
// folder that others can write would let them choose what runs as root in containers.
func keptAt(goarch string) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	key := sha256.Sum256(append([]byte(runtime.Version()+" "+goarch+"\n"), decompressSource...))
	return filepath.Join(dir, "pve-nvidia-hook-sample", fmt.Sprintf("decompress-%s-%x", goarch, key[:8]))
}

func buildDecompressor(goarch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "fakerun-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "decompress")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, decompressPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	// The caller may stand anywhere; the source is beside this file unless paths were trimmed.
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if _, err := os.Stat(file); err == nil {
			cmd.Dir = filepath.Dir(file)
		}
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	p, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	// The header counts it in lines, so it must end one. Bytes behind a program's end do no harm.
	return append(p, '\n'), nil
}
