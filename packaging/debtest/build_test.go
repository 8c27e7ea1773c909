package debtest

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// source is the repository's root.
const source = "../.."

// Two versions, for upgrades. Both are newer than what a tag could say.
const older, newer = "99.0.0", "99.1.0"

var dist string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if dist, err = os.MkdirTemp("", "pve-nvidia-hook-deb-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dist)
		for _, version := range []string{older, newer} {
			if out, err := makeDeb("deb", "DEB_ARCHES="+runtime.GOARCH, "VERSION="+version); err != nil {
				fmt.Fprintf(os.Stderr, "build package %s: %v\n%s", version, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

func makeDeb(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", append([]string{"-f", "packaging/release.mk", "DIST=" + dist}, args...)...)
	cmd.Dir, cmd.WaitDelay = source, time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func deb(version string) string {
	return filepath.Join(dist, "pve-nvidia-hook_"+version+"_"+runtime.GOARCH+".deb")
}

// need skips where a program is missing that only a check of the package needs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		} else if os.Getenv(labtest.EnvNeed) == "1" {
			t.Fatal(err)
		} else {
			t.Skip(err)
		}
	}
}

func dpkgDeb(t *testing.T, args ...string) string {
	t.Helper()
	need(t, "dpkg-deb")
	out, err := exec.CommandContext(t.Context(), "dpkg-deb", args...).CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	out, err := makeDeb("deb-reproducible", "DEB_ARCHES=amd64 arm64", "VERSION="+older)
	require.NoError(t, err, out)
}

func TestLintianHasNothingUnexplained(t *testing.T) {
	need(t, "lintian")
	out, err := makeDeb("deb-check", "DEB_ARCHES=amd64 arm64", "VERSION="+older)
	require.NoError(t, err, out)
}

func TestPackageIsSmall(t *testing.T) {
	info, err := os.Stat(deb(newer))
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(5<<20), "package")
	info, err = os.Stat(filepath.Join(dist, runtime.GOARCH, "pve-nvidia-hook"))
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(12<<20), "program")
}

func TestPackageHoldsWhatItPromises(t *testing.T) {
	list := dpkgDeb(t, "-c", deb(newer))
	for _, file := range []string{
		"-rwxr-xr-x /usr/bin/pve-nvidia-hook",
		"-rw-r--r-- /etc/pve-nvidia-hook/config.toml",
		"-rwxr-xr-x /usr/share/pve-nvidia-hook/snippet",
		"-rw-r--r-- /usr/lib/systemd/system/pve-nvidia-hook-devices.service",
		"-rw-r--r-- /usr/lib/systemd/system/pve-nvidia-hook-apply.service",
		"-rw-r--r-- /usr/lib/systemd/system/pve-nvidia-hook-apply.timer",
		"-rw-r--r-- /usr/share/man/man8/pve-nvidia-hook.8.gz",
		"-rw-r--r-- /usr/share/man/man5/pve-nvidia-hook.toml.5.gz",
		"-rw-r--r-- /usr/share/bash-completion/completions/pve-nvidia-hook",
		"-rw-r--r-- /usr/share/zsh/vendor-completions/_pve-nvidia-hook",
		"-rw-r--r-- /usr/share/fish/vendor_completions.d/pve-nvidia-hook.fish",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/copyright",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/changelog.gz",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/examples/prometheus/pve-nvidia-hook.rules.yml",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/examples/ansible/playbook.yml",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/examples/grafana/pve-nvidia-hook.json",
		"-rw-r--r-- /usr/share/doc/pve-nvidia-hook/examples/README.md",
	} {
		mode, name, _ := strings.Cut(file, " ")
		require.Regexp(t, "(?m)^"+mode+" root/root .* \\."+name+"$", list)
	}
	require.NotRegexp(t, `(?m)\.go$`, list)
	control := t.TempDir()
	dpkgDeb(t, "-e", deb(newer), control)
	conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
	require.NoError(t, err)
	require.Equal(t, "/etc/pve-nvidia-hook/config.toml\n", string(conffiles))
	require.Equal(t, newer+"\n", dpkgDeb(t, "-f", deb(newer), "Version"))
}

// The licenses of all that is linked into the program ask for a copy of the
// notice with the binary.
func TestCopyrightNamesEveryModuleOfTheProgram(t *testing.T) {
	copyright, err := os.ReadFile(filepath.Join(source, "packaging/copyright"))
	require.NoError(t, err)
	info, err := buildinfo.ReadFile(filepath.Join(dist, runtime.GOARCH, "pve-nvidia-hook"))
	require.NoError(t, err)
	require.NotEmpty(t, info.Deps)
	for _, module := range info.Deps {
		require.Contains(t, string(copyright), " "+module.Path+"/*\n")
	}
}
