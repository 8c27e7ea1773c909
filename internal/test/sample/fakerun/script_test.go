package fakerun

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ran is what a command said and how it ended.
type ran struct {
	stdout, stderr string
	status         int
}

// run runs a command in the folder dir with nothing but the given environment.
func run(t *testing.T, dir string, env []string, argv ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	err := cmd.Run()
	if _, failed := err.(*exec.ExitError); !failed {
		require.NoError(t, err)
	}
	return ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// poor is an environment with only those commands that a minimal Debian has.
func poor(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range strings.Fields("sh pwd which mktemp chmod tail head cksum awk md5sum cut grep uname id chown tar rm mkdir dirname") {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	return []string{"PATH=" + dir, "TMPDIR=" + t.TempDir()}
}

func TestStubChecksItsSums(t *testing.T) {
	path := written(t, Spec{Version: "550.163.01"})
	good := run(t, t.TempDir(), poor(t), "sh", path, "--check")
	require.Equal(t, ran{"check sums and md5 sums are ok\n", "", 0}, good)

	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[len(data)-100] ^= 1
	require.NoError(t, os.WriteFile(path, data, 0o644))
	bad := run(t, t.TempDir(), poor(t), "sh", path, "--check")
	require.Equal(t, 2, bad.status)
	require.Regexp(t, `^Error in checksums \d+ \d+\n$`, bad.stderr)
	bad = run(t, t.TempDir(), poor(t), "sh", path, "--silent")
	require.Equal(t, 2, bad.status)
	require.Regexp(t, `^Error in check sums \d+ \d+\n$`, bad.stderr)
	bad = run(t, t.TempDir(), append(poor(t), "SETUP_NOCHECK=1"), "sh", path, "--check")
	require.Regexp(t, `^Error in checksums [0-9a-f]{32} [0-9a-f]{32}\n$`, bad.stderr)
}

func TestStubUnpacksWithItsOwnDecompressor(t *testing.T) {
	for _, s := range []Spec{{Version: "470.256.02"}, {Version: "550.163.01"}} {
		t.Run(s.withDefaults().Compression, func(t *testing.T) {
			path, dir, env := written(t, s), t.TempDir(), poor(t)
			require.Equal(t, 0, run(t, dir, env, "sh", path, "-x").status)
			tree := filepath.Join(dir, "NVIDIA-Linux-x86_64-"+s.Version)
			for _, name := range []string{".manifest", "nvidia-smi", "nvidia-installer", "libcuda.so." + s.Version, "32/libcuda.so." + s.Version, "kernel/nvidia/nv.c"} {
				require.FileExists(t, filepath.Join(tree, name))
			}
			again := run(t, dir, env, "sh", path, "-x")
			require.Equal(t, 1, again.status)
			require.Contains(t, again.stderr, "already exists.  Please either")
			left, err := filepath.Glob(strings.TrimPrefix(env[1], "TMPDIR=") + "/selfgz*")
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestStubAnswersQuestions(t *testing.T) {
	path := written(t, Spec{Version: "580.142", NoDecompressor: true})
	ask := func(option string) string { return run(t, t.TempDir(), poor(t), "sh", path, option).stdout }
	require.Equal(t, "580.142\n", ask("--version-string"))
	require.Equal(t, "NVIDIA-Linux-x86_64-580.142\n", ask("--target-directory"))
	require.Equal(t, "no LSM\n", ask("--lsm"))
	require.Regexp(t, `(?s)^  Identification    : NVIDIA Accelerated.*\n  Uncompressed size : \d+ KB\n  Compression       : zstd\n`, ask("--info"))
	require.Contains(t, ask("-A"), "\n  --systemd, --no-systemd\n")
	require.NotContains(t, ask("-h"), "--no-x-check")
}

func TestOptionsFitTheVersion(t *testing.T) {
	for _, c := range []struct {
		version, arch, option string
		listed, accepted      bool
	}{
		{"470.256.02", "x86_64", "--no-kernel-module", true, true},
		{"470.256.02", "x86_64", "--no-kernel-modules", false, false},
		{"550.163.01", "x86_64", "--no-kernel-module", false, true},
		{"550.163.01", "x86_64", "--no-kernel-modules", true, true},
		{"390.157", "x86_64", "--skip-depmod", false, false},
		{"418.30", "x86_64", "--skip-depmod", true, true},
		{"450.80.02", "x86_64", "--no-systemd", false, false},
		{"470.256.02", "x86_64", "--no-dkms", false, false},
		{"535.261.03", "x86_64", "--no-dkms", true, true},
		{"550.163.01", "aarch64", "--no-install-compat32-libs", false, false},
		{"550.163.01", "x86_64", "--no-install-compat32-libs", true, true},
		{"390.157", "x86_64", "--opengl-headers", true, true},
		{"535.261.03", "x86_64", "--opengl-headers", false, false},
		{"550.163.01", "x86_64", "--silent", true, true},
	} {
		s := Spec{Version: c.version, Arch: c.arch}.withDefaults()
		listed := false
		for line := range strings.Lines(helpText(s, false)) {
			name, ok := strings.CutPrefix(line, `    echo "  -`)
			listed = listed || ok && strings.Contains("-"+strings.NewReplacer(",", " ", `"`, " ").Replace(name), c.option+" ")
		}
		require.Equal(t, c.listed, listed, "%+v", c)
		flags, values, booleans := installerOptions(s)
		known := " " + flags + " " + values + " " + booleans + " "
		require.Equal(t, c.accepted, strings.Contains(known, " "+c.option+" "), "%+v", c)
	}
}

func TestInstallerRefusesWhatItsVersionDoesNotKnow(t *testing.T) {
	s := Spec{Version: "470.256.02"}.withDefaults()
	text, err := installerScript(s)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nvidia-installer"), []byte(text), 0o755))
	// --help last: should one be accepted by mistake, nothing is installed here.
	for _, option := range []string{"--no-kernel-modules", "--frobnicate", "--no-dkms=yes"} {
		got := run(t, dir, os.Environ(), "./nvidia-installer", "--silent", option, "--help")
		name, _, _ := strings.Cut(option, "=")
		require.Equal(t, 1, got.status, option)
		require.Equal(t, "./nvidia-installer: unrecognized option: \""+name+"\"\n\n"+
			"ERROR: Invalid commandline, please run `./nvidia-installer --help` for usage information.\n", got.stderr)
	}
	got := run(t, dir, os.Environ(), "./nvidia-installer", "word", "--help")
	require.Equal(t, 1, got.status)
	require.Contains(t, got.stderr, "invalid option")
	got = run(t, dir, os.Environ(), "./nvidia-installer", "--no-kernel-module", "--log-file-name", "/dev/null", "--tmpdir=/tmp", "-j", "2", "--version")
	require.Equal(t, 0, got.status, got.stderr)
	require.Contains(t, got.stdout, "nvidia-installer:  version 470.256.02")
}

func TestLdconfigTakesTheLibrariesForRealOnes(t *testing.T) {
	ldconfig, err := exec.LookPath("ldconfig")
	if err != nil {
		t.Skip("no ldconfig here")
	}
	known := map[string]string{"x86_64": "libcuda.so.1", "i386": "libnvcuvid.so.1"}
	if runtime.GOARCH == "arm64" { // it skips what another machine's processor is needed for
		known = map[string]string{"aarch64": "libnvidia-ml.so.1"}
	}
	for arch, soname := range known {
		dir := t.TempDir()
		file := soname[:strings.Index(soname, ".so")] + ".so.580.76.05"
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), append(sharedObject(arch, soname), make([]byte, 5000)...), 0o755))
		// -n looks only into this folder and leaves the machine's cache alone.
		got := run(t, dir, os.Environ(), ldconfig, "-n", dir)
		require.Empty(t, got.stderr, arch)
		target, err := os.Readlink(filepath.Join(dir, soname))
		require.NoError(t, err, arch)
		require.Equal(t, file, target)
	}
}

func TestLibrariesAreForTheirMachine(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64, "i386": elf.EM_386} {
		f, err := elf.NewFile(bytes.NewReader(sharedObject(arch, "libcuda.so.1")))
		require.NoError(t, err)
		require.Equal(t, machine, f.Machine)
		require.Equal(t, elf.ET_DYN, f.Type)
		require.Len(t, f.Progs, 3)
	}
}

func TestScriptsAreCleanShell(t *testing.T) {
	s := Spec{Version: "580.76.05"}.withDefaults()
	installer, err := installerScript(s)
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"stub.sh": headerTop(1, nil) + headerBody(s, 0, 0), "installer.sh": installer, "smi.sh": smi(s),
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		require.Equal(t, ran{}, run(t, dir, os.Environ(), "sh", "-n", path))
		require.NotRegexp(t, `@[A-Z_0-9]+@`, text, name)
		if shellcheck, err := exec.LookPath("shellcheck"); err == nil {
			// SC2317 takes functions for unreachable that are called by name; SC2034 fields
			// of the header that the stub does not read.
			got := run(t, dir, os.Environ(), shellcheck, "-s", "sh", "-e", "SC2317,SC2034", path)
			require.Equal(t, 0, got.status, got.stdout)
		}
	}
}
