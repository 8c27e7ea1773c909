package cuda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// nvccPath is where NVIDIA's packages put the compiler of a release.
func nvccPath(release string) string { return "/usr/local/cuda-" + release + "/bin/nvcc" }

// nvccForm is in the fourth line of nvcc --version:
// "Cuda compilation tools, release 12.8, V12.8.93".
var nvccForm = lazy.Regexp(`release (\d{1,2}\.\d{1,2}), V(\S+)`)

// parseNvcc returns release and version from what nvcc --version printed.
func parseNvcc(out []byte) (release, full string, err error) {
	m := nvccForm().FindSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("nvcc --version names no release: %q", say.Clean(string(out), 200))
	}
	return string(m[1]), say.Clean(string(m[2]), 40), nil
}

// verify runs nvcc and notes what it is. One that does not work is installed
// again: the package tool does not see what is missing on the disk.
func (j *job) verify(ctx context.Context, m manager, release string) error {
	err := j.runNvcc(ctx, release)
	if err == nil || ctx.Err() != nil {
		return err
	}
	name := "cuda-nvcc-" + strings.ReplaceAll(release, ".", "-")
	if have, err2 := m.installed(ctx); err2 != nil || !slices.Contains(have, name) {
		return err
	}
	j.log.Warnf("%v: installing %s again", err, name)
	if err := m.act(ctx, actReinstall, []string{name}); err != nil {
		return err
	}
	return j.runNvcc(ctx, release)
}

func (j *job) runNvcc(ctx context.Context, release string) error {
	path := nvccPath(release)
	info, err := j.c.Stat(path)
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if !info.Mode.IsRegular() {
		return errors.New(path + " is not a regular file")
	}
	out, err := j.run(ctx, path, "--version")
	if err != nil {
		return fmt.Errorf("run %s --version: %w", path, err)
	}
	if out.code != 0 {
		return hint.Errorf("look whether the toolkit's packages are complete, and install those again that are not",
			"%s --version ended with status %d: %s", path, out.code, out.tail(3))
	}
	got, full, err := parseNvcc(out.stdout)
	if err != nil {
		return err
	}
	if got != release {
		return fmt.Errorf("%s says release %s, %s was installed", path, got, release)
	}
	j.in.Release, j.in.Version, j.in.Nvcc, j.in.NvccSize = release, full, path, info.Size
	return nil
}

// profileFile sets PATH for logins: NVIDIA's packages put nvcc outside of it.
const profileFile = "/etc/profile.d/pve-nvidia-hook-cuda.sh"

// profileText is the content of profileFile, for any POSIX shell. It does
// nothing when the toolkit is gone and adds the folder once only.
func profileText(release string) string {
	return strings.ReplaceAll(`# Puts the CUDA toolkit into PATH. Written by pve-nvidia-hook.
if [ -d BIN ]; then
    case ":$PATH:" in
    *:BIN:*) ;;
    *) PATH="BIN:$PATH"; export PATH ;;
    esac
fi
`, "BIN", "/usr/local/cuda-"+release+"/bin")
}
