package inuse

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestACgroupTellsTheOwner(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct{ path, name, restart string }{
		{"/system.slice/ollama.service", "ollama.service", "ollama.service"},
		{"/system.slice/ollama.service/worker", "ollama.service", "ollama.service"},
		{"/system.slice/system-tdarr.slice/tdarr@1.service", "tdarr@1.service", "tdarr@1.service"},
		{`/system.slice/my\x2dapp.service`, `my\x2dapp.service`, `my\x2dapp.service`},
		{"/system.slice/_cpu.service", "cpu.service", "cpu.service"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/comfyui.service", "comfyui.service of user 1000", ""},
		{"/user.slice/user-1000.slice/user@1000.service/init.scope", "prog (process 7)", ""},
		{"/user.slice/user-0.slice/session-3.scope", "prog (process 7)", ""},
		{"/init.scope", "prog (process 7)", ""},
		{"", "prog (process 7)", ""},
		{"/system.slice/docker-" + id + ".scope", "docker container 0123456789ab", ""},
		{"/system.slice/docker-" + id + ".scope/system.slice/ssh.service", "docker container 0123456789ab", ""},
		{"/docker/" + id, "docker container 0123456789ab", ""},
		{"/elsewhere/" + id, "prog (process 7)", ""},
		{"/machine.slice/libpod-" + id + ".scope/container", "podman container 0123456789ab", ""},
		{"/system.slice/jellyfin.service/libpod-payload-" + id, "jellyfin.service", "jellyfin.service"},
		{"/system.slice/docker.service", "docker.service", "docker.service"},
		{"/lxc.payload.web/system.slice/nginx.service", "lxc container web", ""},
		{"/lxc/web/ns/init.scope", "lxc container web", ""},
		// Names that no systemd gives.
		{"/system.slice/-f.service", "-f.service", "-f.service"},
		{"/system.slice/a b.service", "prog (process 7)", ""},
		{"/system.slice/\x1b[2J.service", "prog (process 7)", ""},
		{"/system.slice/" + strings.Repeat("x", 300) + ".service", "prog (process 7)", ""},
	} {
		h := Holder{Owner: ownerOf(c.path), Command: "prog", Process: 7, Processes: 1}
		require.Equal(t, c.name, h.Name(), c.path)
		require.Equal(t, c.restart, h.Restartable(), c.path)
	}
}

func parse(text string) seen {
	var s seen
	s.parseMaps(strings.NewReader(text))
	return s
}

// line writes a line of /proc/PID/maps as the kernel does.
func line(name string) string {
	return fmt.Sprintf("%-73s%s\n", "7f0c4a200000-7f0c4a228000 r-xp 00000000 fe:00 1835029", name)
}

func TestMapsNameTheVersions(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions map[version.Driver]bool
		devices  []string
	}{
		{"/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", map[version.Driver]bool{"580.95.05": false}, nil},
		{"/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05 (deleted)", map[version.Driver]bool{"580.95.05": true}, nil},
		{"/usr/lib64/libnvidia-ml.so.580.142", map[version.Driver]bool{"580.142": false}, nil},
		{"/usr/local/cuda-12.8/compat/libcuda.so.570.86.10", nil, nil},
		{"/usr/lib/x86_64-linux-gnu/libnvidia-container.so.1.17.8", nil, nil},
		{"/usr/lib/x86_64-linux-gnu/libc.so.6", nil, nil},
		{`/root/lib\012cuda.so.580.95.05`, nil, nil},
		{"/root/libcuda.so.580.95.05 (deleted) (deleted)", nil, nil},
		{"libcuda.so.580.95.05", nil, nil},
		{"[heap]", nil, nil},
		{"anon_inode:[eventfd]", nil, nil},
		{"/dev/nvidia0", nil, []string{"/dev/nvidia0"}},
		{"/dev/nvidia-uvm", nil, []string{"/dev/nvidia-uvm"}},
		{"/dev/nvidia-caps/nvidia-cap2", nil, []string{"/dev/nvidia-caps/nvidia-cap2"}},
		{"/dev/nvidia-\x1b[2J", nil, nil},
	} {
		s := parse(line("/usr/bin/x") + line(c.name) + line("") + line(c.name))
		require.Equal(t, c.versions, s.versions, c.name)
		require.Equal(t, c.devices, s.devices, c.name)
	}
}

func TestAPartOfALineTellsNothing(t *testing.T) {
	whole := line("/usr/lib64/libcuda.so.580.95.05")
	for n := range len(whole) - 1 {
		require.Empty(t, parse(whole[:n]).versions, n)
	}
	long := strings.Repeat("a", 200<<10) // no file has such a name
	require.Empty(t, parse(long).versions)
	require.Len(t, parse(line("/"+long)+whole).versions, 1)
}

func TestNamesWithoutEndAreLimited(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		b.WriteString(line(fmt.Sprintf("/usr/lib64/libcuda.so.%d.1", 100+i)))
		b.WriteString(line(fmt.Sprintf("/dev/nvidia%d", i)))
	}
	s := parse(b.String())
	require.Len(t, s.versions, maxKept)
	require.Len(t, s.devices, maxKept)
	h := Holder{}
	for range 3 {
		h.add(s, "580.95.05")
	}
	require.LessOrEqual(t, len(h.Versions), maxKept)
	require.Len(t, h.Devices, maxKept)
}

func TestWhatIsSaidOfAHolder(t *testing.T) {
	unit := Owner{Unit: "ollama.service"}
	for _, c := range []struct {
		h    Holder
		said string
	}{
		{Holder{Owner: unit, Versions: []version.Driver{"580.95.05"}}, "ollama.service still uses driver 580.95.05"},
		{Holder{Owner: unit, Versions: []version.Driver{"570.1", "580.95.05"}}, "ollama.service still uses driver 570.1 and 580.95.05"},
		{Holder{Owner: unit, Deleted: true}, "ollama.service still uses files of the driver that were replaced"},
		{Holder{Owner: unit, Devices: []string{"/dev/nvidia0", "/dev/nvidiactl"}}, "ollama.service has /dev/nvidia0, /dev/nvidiactl open"},
		{Holder{Command: "python3", Process: 12, Processes: 4, Versions: []version.Driver{"580.95.05"}}, "python3 (process 12 and 3 more) still uses driver 580.95.05"},
	} {
		require.Equal(t, c.said, c.h.String())
	}
}

func FuzzMaps(f *testing.F) {
	f.Add([]byte(line("/usr/lib64/libcuda.so.580.95.05 (deleted)")))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := parse(string(data))
		if len(s.versions) > maxKept || len(s.devices) > maxKept {
			t.Fatal("more than are kept")
		}
	})
}

func FuzzOwner(f *testing.F) {
	f.Add("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service")
	f.Fuzz(func(t *testing.T, path string) {
		if u := ownerOf(path).Restartable(); u != "" && (strings.ContainsAny(u, " /\n\x1b") || !strings.HasSuffix(u, ".service")) {
			t.Fatalf("%q", u)
		}
	})
}
