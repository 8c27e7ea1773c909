package inuse

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Of one process. A program that uses CUDA has a few thousand mappings, of about
// 100 bytes each; the kernel allows 65530.
const (
	maxMaps  = 8 << 20 // bytes
	maxFiles = 4096    // open files
)

// seen is what one process uses.
type seen struct {
	command  string
	versions map[version.Driver]bool // of the libraries that it maps; true: one was deleted since
	devices  []string
}

// uses reports whether there is anything to tell of it.
func (s seen) uses(installed version.Driver) bool {
	for v, deleted := range s.versions {
		if v != installed || deleted {
			return true
		}
	}
	return len(s.devices) > 0
}

// key tells those apart that are listed apart.
func (p member) key(s seen) string {
	o := p.owner
	if o == (Owner{}) {
		return "\x00" + s.command
	}
	return strings.Join([]string{o.Unit, o.User, o.Engine, o.Nested}, "\x00")
}

// ask looks at a process, and does not wait for one that the kernel keeps locked,
// such as in the middle of an exec that a file system of the container holds up.
// These reads end when this program does: they do not hold that up.
func (p member) ask() (s seen, answered bool) {
	answer := make(chan seen, 1)
	go func() { answer <- p.look() }()
	timer := time.NewTimer(answerWait)
	defer timer.Stop()
	select {
	case s := <-answer:
		return s, true
	case <-timer.C:
		return seen{}, false
	}
}

// look reads only what needs no memory of the process, which one of its own could
// be made to wait for: no command line, no environment; and follows no link to a
// program or namespace.
func (p member) look() seen {
	var s seen
	dir, err := unix.Open("/proc/"+strconv.Itoa(p.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return s // it has ended
	}
	defer unix.Close(dir)
	// Its number may be another process's by now, one of the host's.
	if group, err := readSmall(dir, "cgroup"); err != nil || !inGroup(group, p.group) {
		return s
	}
	s.readMaps(dir)
	s.readDevices(dir)
	if len(s.versions)+len(s.devices) > 0 {
		comm, _ := readSmall(dir, "comm")
		if s.command = say.Clean(strings.TrimSpace(string(comm)), 32); s.command == "" {
			s.command = "a program"
		}
	}
	return s
}

// inGroup: the line of cgroup v2 is "0::PATH" (cgroups(7)). The kernel allows no
// newline in the name of a group.
func inGroup(lines []byte, group string) bool {
	for line := range bytes.Lines(lines) {
		if at, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("0::")); ok {
			return string(at) == group
		}
	}
	return false
}

func readSmall(dir int, name string) ([]byte, error) {
	f, err := openAt(dir, name, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

func openAt(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *seen) readMaps(dir int) {
	f, err := openAt(dir, "maps", 0)
	if err != nil {
		return
	}
	defer f.Close()
	s.parseMaps(io.LimitReader(f, maxMaps))
}

// parseMaps reads /proc/PID/maps (proc_pid_maps(5)): five fields, then spaces and the
// file's name, in which the kernel writes a newline as \012. It adds " (deleted)" to
// a file that is there no more; a process can map a file that is called so, and is
// then believed to its own harm.
func (s *seen) parseMaps(r io.Reader) {
	buf, rest := make([]byte, 64<<10), 0
	last := ""
	for {
		n, err := r.Read(buf[rest:])
		lines := buf[:rest+n]
		for {
			line, more, found := bytes.Cut(lines, []byte("\n"))
			if !found {
				break
			}
			lines = more
			if name := mapped(line); len(name) > 0 && string(name) != last {
				last = string(name)
				s.mapped(last)
			}
		}
		if rest = copy(buf, lines); rest == len(buf) {
			rest = 0 // no line of the kernel's is that long
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// mapped is the file of a line, nil where there is none.
func mapped(line []byte) []byte {
	for range 5 {
		_, after, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			return nil
		}
		line = after
	}
	if line = bytes.TrimLeft(line, " "); len(line) == 0 || line[0] != '/' {
		return nil
	}
	return line
}

func (s *seen) mapped(name string) {
	if deviceName().MatchString(name) {
		s.device(name)
		return
	}
	file, deleted := strings.CutSuffix(name, " (deleted)")
	v := driver.LibraryVersion(file)
	// CUDA's packages for forward compatibility bring a libcuda.so of a newer
	// driver on purpose, to /usr/local/cuda-X.Y/compat.
	if v == "" || path.Base(path.Dir(file)) == "compat" {
		return
	}
	if s.versions == nil {
		s.versions = map[version.Driver]bool{}
	}
	if _, known := s.versions[v]; known || len(s.versions) < maxKept {
		s.versions[v] = s.versions[v] || deleted
	}
}

var deviceName = lazy.Regexp(`^/dev/nvidia[a-z0-9-]{0,20}(/nvidia-cap[0-9]{1,5})?$`)

func (s *seen) device(name string) {
	if len(s.devices) < maxKept && !slices.Contains(s.devices, name) {
		s.devices = append(s.devices, name)
	}
}

// readDevices looks for NVIDIA's devices among the open files. nvidia-persistenced,
// for one, has them open and maps nothing.
func (s *seen) readDevices(dir int) {
	f, err := openAt(dir, "fd", unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer f.Close()
	target := make([]byte, 64) // a device's name is shorter
	for left := maxFiles; left > 0; {
		names, err := f.Readdirnames(min(left, 256))
		for _, name := range names {
			n, err := unix.Readlinkat(int(f.Fd()), name, target)
			if err == nil && n < len(target) && deviceName().Match(target[:n]) {
				s.device(string(target[:n]))
			}
		}
		left -= len(names)
		if errors.Is(err, io.EOF) || len(names) == 0 {
			return
		}
	}
}
