package runfile

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestHelpTextDecidesWhatIsKnown(t *testing.T) {
	h, err := ReadHeader(bytes.NewReader(spec{version: "590.48.01", options: []string{
		"-s, --silent", "--ui=UI", "-j CONCURRENCY-LEVEL, --concurrency-level=CONCURRENCY-LEVEL",
		"--no-kernel-modules", "--systemd, --no-systemd", "-Z, --disable-nouveau, --no-disable-nouveau",
		"--check", "--extract-only | -x",
	}}.build()))
	require.NoError(t, err)
	for _, o := range []string{
		"--silent", "--ui=none", "--concurrency-level=4", "--no-kernel-modules", "--no-kernel-module",
		"--systemd", "--no-systemd", "--disable-nouveau", "--no-disable-nouveau", "--no-backup",
	} {
		require.True(t, h.Knows(o), o)
	}
	for _, o := range []string{
		"--skip-depmod", "--no-silent", "--check", "--extract-only", "--x", "-s", "silent", "", "--", "--=", "--no-such",
	} {
		require.False(t, h.Knows(o), o)
	}
}

// Without a list the version decides; where in doubt an option is unknown,
// since one unknown option makes the installer do nothing at all.
func TestVersionDecidesWithoutHelpText(t *testing.T) {
	for _, c := range []struct {
		version, arch, option string
		known                 bool
	}{
		{"470.256.02", "x86_64", "--no-kernel-module", true},
		{"470.256.02", "x86_64", "--no-kernel-modules", false},
		{"515.43.04", "x86_64", "--no-kernel-modules", true},
		{"510.108.03", "x86_64", "--no-kernel-modules", false},
		{"460.106.00", "x86_64", "--no-systemd", false},
		{"465.19.01", "x86_64", "--no-systemd", true},
		{"470.256.02", "x86_64", "--no-dkms", false},
		{"470.256.02", "x86_64", "--dkms", true},
		{"550.163.01", "x86_64", "--no-dkms", true},
		{"418.30", "x86_64", "--skip-depmod", true},
		{"410.57", "x86_64", "--skip-depmod", false},
		{"550.163.01", "x86_64", "--no-install-compat32-libs", true},
		{"550.163.01", "aarch64", "--no-install-compat32-libs", false},
		{"550.163.01", "aarch64", "--no-install-libglvnd", true},
		{"550.163.01", "x86_64", "--opengl-headers", false},
		{"550.163.01", "x86_64", "--no-uninstall", false},
	} {
		h := Header{Version: version.Driver(c.version), Arch: c.arch, Options: []string{"--help", "--version"}}
		require.Equal(t, c.known, h.Knows(c.option), "%s %s", c.version, c.option)
	}
}

// Some packages may list it for all architectures; the installer itself is
// compiled without it on arm.
func TestCompat32IsNeverKnownOnArm(t *testing.T) {
	h := Header{Version: "580.76.05", Arch: "aarch64", Options: []string{"--no-install-compat32-libs", "--no-backup"}}
	require.False(t, h.Knows("--no-install-compat32-libs"))
}

func TestOptionLines(t *testing.T) {
	for line, want := range map[string][]string{
		`    echo "  --no-kernel-modules"`:                  {"--no-kernel-modules"},
		`    echo "  --systemd, --no-systemd"`:              {"--systemd", "--no-systemd"},
		`echo '  -s, --silent'`:                             {"--silent"},
		`  --tmpdir=TMPDIR`:                                 {"--tmpdir"},
		`    echo "      The --x-check option is ..."`:      nil,
		`    echo "  Use --silent"`:                         nil,
		`--flush-left`:                                      nil,
		`        --deep`:                                    nil,
		`    echo "  --info : Print embedded info"`:         {"--info"},
		`    echo "  -k KERNEL-NAME, --kernel-name=KERNEL"`: {"--kernel-name"},
		`    echo "  -"`:                                    nil,
		`    echo`:                                          nil,
	} {
		require.Equal(t, want, optionsIn(line), line)
	}
}

func FuzzOptions(f *testing.F) {
	for _, line := range []string{`    echo "  --no-kernel-modules"`, `  --systemd, --no-systemd`, `echo '  -s, --silent'`, `  --tmpdir=TMPDIR`, `    echo "  -"`, "  --", "    echo ", "\t echo \"\"\"  --x\xff",
		`    echo "  -k KERNEL-NAME, --kernel-name=KERNEL"`, "  --" + strings.Repeat("x", 70), "  , , -, --a"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, o := range optionsIn(line) {
			require.Regexp(t, `^--[a-z0-9-]{2,64}$`, o)
			require.Contains(t, line, o)
		}
	})
}
