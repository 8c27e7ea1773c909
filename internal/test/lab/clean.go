package lab

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Clean removes all that is kept between labs: the base roots, and what labs of
// dead processes have left. It refuses while a lab lives, for its containers
// stand on a base root, and while a base root is being built.
func Clean(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return hint.Errorf("run it as root", "containers need root")
	}
	if _, err := os.Lstat(Dir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := Sweep(ctx); err != nil {
		return err
	}
	home := Dir()
	labs, err := os.ReadDir(filepath.Join(home, "labs"))
	if err != nil {
		return err
	}
	if len(labs) > 0 {
		return hint.Errorf("let the demo, test or bench that it belongs to end", "lab %s is in use", filepath.Join(home, "labs", labs[0].Name()))
	}
	base := filepath.Join(home, "base")
	info, err := os.Lstat(base)
	if err != nil {
		return err
	}
	if info.IsDir() { // else a link to those of another home
		roots, err := os.ReadDir(base)
		if err != nil {
			return err
		}
		for _, root := range roots {
			lock, err := lockFile(filepath.Join(base, root.Name(), "lock"), unix.LOCK_EX|unix.LOCK_NB)
			if errors.Is(err, unix.EWOULDBLOCK) {
				return hint.Errorf("let the demo, test or bench that builds it end", "base root %s is being built", root.Name())
			}
			if err != nil {
				return err
			}
			err = demolish(filepath.Join(base, root.Name()))
			lock.Close()
			if err != nil {
				return err
			}
		}
	}
	if err := errors.Join(os.RemoveAll(base), os.Remove(filepath.Join(home, "labs"))); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(home, "subid.lock"))
	_ = os.Remove(home) // unless something else is in it, which is not ours
	return nil
}
