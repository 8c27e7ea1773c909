package docker

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// files is a container of files alone.
type files struct {
	of         map[string]string
	privileged bool
}

func (f files) Stat(name string) (lxc.Info, error) {
	text, ok := f.of[name]
	if !ok {
		return lxc.Info{}, fs.ErrNotExist
	}
	return lxc.Info{Mode: 0o644, Size: int64(len(text))}, nil
}

func (f files) ReadDir(name string, most int) ([]string, error) {
	var all []string
	for path := range f.of {
		if rest, ok := strings.CutPrefix(path, name+"/"); ok {
			all = append(all, rest)
		}
	}
	return all, nil
}

func (f files) ReadFile(name string, limit int64) ([]byte, error) {
	text, ok := f.of[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}

func (f files) WriteFile(name string, data []byte, mode fs.FileMode) error {
	f.of[name] = string(data)
	return nil
}
func (f files) MkdirAll(string, fs.FileMode) error { return nil }
func (f files) Remove(name string) error           { delete(f.of, name); return nil }
func (f files) Privileged() bool                   { return f.privileged }
func (f files) Run(context.Context, lxc.Cmd) (lxc.Result, error) {
	return lxc.Result{}, lxc.ErrNotRunning
}

// As NVIDIA's packages ship it, shortened.
const shipped = `#accept-nvidia-visible-devices-as-volume-mounts = false
supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"

[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
ldconfig = "@/sbin/ldconfig"
#no-cgroups = false
#user = "root:video"

[nvidia-container-runtime]
log-level = "info"
`

func TestNoCgroupsIsSetAndNothingElse(t *testing.T) {
	for _, c := range []struct{ name, before, after string }{
		{"shipped", shipped, strings.Replace(shipped, "#no-cgroups = false", "no-cgroups = true", 1)},
		{"false", "[nvidia-container-cli]\n  no-cgroups = false # why\n", "[nvidia-container-cli]\nno-cgroups = true\n"},
		{"not there", "# mine\n[nvidia-container-cli]\nload-kmods = true\n", "# mine\n[nvidia-container-cli]\nno-cgroups = true\nload-kmods = true\n"},
		{"no section", "disable-require = true\n", "disable-require = true\n\n[nvidia-container-cli]\nno-cgroups = true\n"},
		{"in another section", "[x]\nno-cgroups = true\n", "[x]\nno-cgroups = true\n\n[nvidia-container-cli]\nno-cgroups = true\n"},
		{"commented and set", "[nvidia-container-cli]\n#no-cgroups = false\nno-cgroups = false\n", "[nvidia-container-cli]\n#no-cgroups = false\nno-cgroups = true\n"},
	} {
		f := files{of: map[string]string{configFile: c.before, ctk: ""}}
		require.True(t, NoCgroupsMissing(f), c.name)
		changed, err := setNoCgroups(f, true)
		require.NoError(t, err)
		require.True(t, changed, c.name)
		require.Equal(t, c.after, f.of[configFile], c.name)
		require.False(t, NoCgroupsMissing(f), c.name)
		changed, err = setNoCgroups(f, true)
		require.NoError(t, err)
		require.False(t, changed, c.name)
	}
	f := files{of: map[string]string{configFile: shipped, ctk: ""}}
	for _, on := range []bool{true, false} {
		_, err := setNoCgroups(f, on)
		require.NoError(t, err)
	}
	require.Equal(t, shipped, f.of[configFile])
	require.False(t, NoCgroupsMissing(files{of: f.of, privileged: true}), "a privileged container may set device rules")
	require.False(t, NoCgroupsMissing(files{}), "there is no toolkit")
}

func TestASpecificationOfAnotherDriverIsStale(t *testing.T) {
	spec := func(kind, lib string) string {
		return "cdiVersion: 0.5.0\nkind: " + kind + "\ncontainerEdits:\n  mounts:\n    - hostPath: " + lib + "\n"
	}
	const lib = "/usr/lib/x86_64-linux-gnu/libcuda.so."
	for _, c := range []struct {
		name, text string
		stale      bool
	}{
		{"nvidia.yaml", spec("nvidia.com/gpu", lib+"580.95.05"), false},
		{"nvidia.yaml", spec("nvidia.com/gpu", lib+"550.163.01"), true},
		{"nvidia.json", `{"kind":"nvidia.com/gpu","containerEdits":{"mounts":[{"hostPath":"` + lib + `550.163.01"}]}}`, true},
		{"nvidia.yaml.bak", spec("nvidia.com/gpu", lib+"550.163.01"), false},
		{"$(reboot).yaml", spec("nvidia.com/gpu", lib+"550.163.01"), false},
		{"other.yaml", spec("amd.com/gpu", lib+"550.163.01"), false},
		{"nvidia.yaml", spec("nvidia.com/gpu", "/usr/local/cuda/compat/libcuda.so.550.163.01"), false},
		{"nvidia.yaml", spec("nvidia.com/gpu", "/usr/lib/x86_64-linux-gnu/libnvidia-egl-gbm.so.1.1.2"), false},
	} {
		for _, dir := range cdiDirs {
			f := files{of: map[string]string{dir + "/" + c.name: c.text}}
			require.Equal(t, c.stale, len(Stale(f, "580.95.05")) == 1, "%s %s", c.name, c.text)
		}
	}
	f := files{of: map[string]string{"/run/cdi/nvidia.yaml": spec("nvidia.com/gpu", lib+"550.163.01")}}
	made, err := Refresh(t.Context(), f, "580.95.05")
	require.Empty(t, made)
	require.EqualError(t, err, "the CDI specification /run/cdi/nvidia.yaml is of another driver than 580.95.05")
}

// Written again with an indent for each level, 1 MB of brackets would take all of the
// host's memory.
func TestAConfigurationThatNestsDeepIsNotWrittenAgain(t *testing.T) {
	const depth = 9000
	deep := `{"runtimes":{"nvidia":{}},"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
	f := files{of: map[string]string{daemonFile: deep}}
	require.ErrorContains(t, removeRuntime(t.Context(), f), "objects and lists")
	require.Equal(t, deep, f.of[daemonFile])
}

func FuzzNoCgroups(f *testing.F) {
	f.Add(shipped)
	f.Fuzz(func(t *testing.T, text string) {
		c := files{of: map[string]string{configFile: text, ctk: ""}}
		if _, err := setNoCgroups(c, true); err != nil || NoCgroupsMissing(c) {
			t.Fatalf("%v: %q", err, c.of[configFile])
		}
	})
}

func FuzzStale(f *testing.F) {
	f.Add("kind: nvidia.com/gpu /libcuda.so.580.95.05")
	f.Fuzz(func(t *testing.T, text string) { stale(text, "580.95.05") })
}
