package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// manifests holds a folder for each choice of capabilities that was installed
// since the host has started, with the manifest of that choice in it.
const manifests = "/run/pve-nvidia-hook/manifests"

// mount mounts the unpacked run file for the installer, with the manifest of
// what is wanted over the run file's own.
func mount(ctx context.Context, c *lxc.Container, j Job) error {
	m, err := j.Manifest()
	if err != nil {
		return err
	}
	layer, err := layerOf(m)
	if err != nil {
		return err
	}
	return c.MountTree(ctx, j.Tree, stageTree, layer)
}

// layerOf makes the folder that holds a manifest, or finds it. All can read it,
// as the container's root must. It stays: what was removed can no longer be read
// through an overlay.
func layerOf(m runfile.Manifest) (string, error) {
	sum := sha256.Sum256([]byte(m.Text()))
	dir := filepath.Join(manifests, hex.EncodeToString(sum[:8]))
	file := filepath.Join(dir, ".manifest")
	if text, err := os.ReadFile(file); err == nil && string(text) == m.Text() {
		return dir, nil
	}
	err := trust.MakeDir(dir, 0o755)
	if err == nil {
		err = os.Chmod(dir, 0o755) // whatever the umask is
	}
	if err == nil {
		err = renameio.WriteFile(file, []byte(m.Text()), 0o644, renameio.IgnoreUmask())
	}
	if err != nil {
		return "", hint.Wrap(fmt.Errorf("write the manifest of what is wanted: %w", err), "make room in /run on the host")
	}
	return dir, nil
}

// push copies what is wanted of the unpacked run file into the container.
func push(ctx context.Context, c *lxc.Container, j Job) error {
	size, err := j.size()
	if err != nil {
		return err
	}
	if err := pushable(c, j, size); err != nil { // the mount may have been refused only now
		return err
	}
	m, err := j.Manifest()
	if err != nil {
		return err
	}
	for _, e := range m.Entries {
		if err = ctx.Err(); err == nil && !e.IsLink() {
			err = copyIn(ctx, c, j.Tree, e.Path)
		}
		if err != nil {
			return fmt.Errorf("copy the unpacked run file into the container: %w", err)
		}
	}
	// Installers of 590 and later look whether there is a folder of modules.
	for _, dir := range []string{"kernel", "kernel-open"} {
		if err = c.MkdirAll(path.Join(stageTree, dir), 0o755); err != nil {
			break
		}
	}
	if err == nil {
		err = c.WriteFile(path.Join(stageTree, ".manifest"), []byte(m.Text()), 0o644)
	}
	if err != nil {
		return fmt.Errorf("copy the unpacked run file into the container: %w", err)
	}
	return nil
}

func copyIn(ctx context.Context, c *lxc.Container, tree, name string) error {
	src, err := os.Open(filepath.Join(tree, name))
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	inside := path.Join(stageTree, name)
	if err := c.MkdirAll(path.Dir(inside), 0o755); err != nil {
		return err
	}
	n, err := c.CopyIn(ctx, src, inside, info.Mode().Perm())
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s: %d of %d bytes", name, n, info.Size())
	}
	return err
}
