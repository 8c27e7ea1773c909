package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func put(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
}

func TestPathIsBelowTheRoot(t *testing.T) {
	require.Equal(t, "/proc/version", Host{}.Path("proc/version"))
	require.Equal(t, "/proc/version", Host{}.Path("/proc/version"))
	require.Equal(t, "/srv/node2/proc/version", Host{Root: "/srv/node2"}.Path("/proc/version"))
	require.Equal(t, "node2/proc/version", Host{Root: "node2"}.Path("proc/version"), "a folder of the working folder is not a folder of /")
}

func TestModuleOfEveryForm(t *testing.T) {
	const gcc = "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
	for name, c := range map[string]struct{ proc, sys, want, fail string }{
		"proprietary":         {proc: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Apr 29 17:32:45 UTC 2026\n" + gcc, want: "580.159.04"},
		"open, two parts":     {proc: "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.142  Release Build  (dvs-builder@U22-I3-AD05-51-5)  Tue Mar  3 19:14:46 UTC 2026\n" + gcc, want: "580.142"},
		"open, arm":           {proc: "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build\n", want: "580.95.05"},
		"proprietary, arm":    {proc: "NVRM version: NVIDIA UNIX Kernel Module for aarch64  540.1.1  Release Build\n", want: "540.1.1"},
		"no newline":          {proc: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  515.76", want: "515.76"},
		"version on line 2":   {proc: "something else\n" + gcc, fail: "unknown form"},
		"only a compiler":     {proc: gcc, fail: "unknown form"},
		"sysfs only":          {sys: "580.142\n", want: "580.142"},
		"sysfs of other form": {sys: "nvidia\n", fail: "not a driver version"},
		"none":                {},
		"proc before sysfs":   {proc: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Mon\n", sys: "570.1\n", want: "580.76.05"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if c.proc != "" {
				put(t, root, "proc/driver/nvidia/version", c.proc)
			}
			if c.sys != "" {
				put(t, root, "sys/module/nvidia/version", c.sys)
			}
			got, err := Host{Root: root}.Module()
			if c.fail != "" {
				require.ErrorContains(t, err, c.fail)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
		})
	}
}
