// Package machine describes the machine on which the bench and the torture run.
package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// Machine is what figures depend on.
type Machine struct {
	cpu    string
	cores  int
	memory uint64 // bytes
	kernel string
	disk   string // file system of the lab's folder
	lxc    string
	load   string // of the last minute, when it was looked at
}

// Look reads what it can; what it cannot read is left out of the description.
func Look() Machine {
	m := Machine{cpu: runtime.GOARCH, cores: runtime.NumCPU(), disk: diskOf(lab.Dir())}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name\t: "); ok {
			m.cpu, _, _ = strings.Cut(rest, "\n")
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.kernel = unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load, _, _ = strings.Cut(string(text), " ")
	}
	if text, err := exec.Command("lxc-info", "--version").Output(); err == nil {
		m.lxc = strings.TrimSpace(string(text))
	}
	return m
}

func (m Machine) String() string {
	text := fmt.Sprintf("%s, %d cores, %.0f GB", m.cpu, m.cores, float64(m.memory)/1e9)
	for _, more := range []struct{ name, value string }{
		{"Linux ", m.kernel}, {"", m.disk}, {"LXC ", m.lxc}, {"load before ", m.load},
	} {
		if more.value != "" {
			text += ", " + more.name + more.value
		}
	}
	return text
}

// diskOf names the type of the file system on which a folder lies, or will lie.
func diskOf(dir string) string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	best, kind := "", ""
	for line := range strings.Lines(string(text)) {
		front, back, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(types) < 1 {
			continue
		}
		point := fields[4]
		if rel, err := filepath.Rel(point, dir); err == nil && !strings.HasPrefix(rel, "..") && len(point) >= len(best) {
			best, kind = point, types[0]
		}
	}
	return kind
}
