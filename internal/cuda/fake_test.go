package cuda

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// folder is a container that is but a folder: files are real, commands are
// answered by script.
type folder struct {
	t      *testing.T
	root   string
	script func(args []string) lxc.Result
	ran    []string
}

func newFolder(t *testing.T, files map[string]string) *folder {
	f := &folder{t: t, root: t.TempDir()}
	for name, text := range files {
		f.set(name, text)
	}
	return f
}

func (f *folder) set(name, text string) {
	require.NoError(f.t, os.MkdirAll(filepath.Dir(f.root+name), 0o755))
	require.NoError(f.t, os.WriteFile(f.root+name, []byte(text), 0o644))
}

func (f *folder) text(name string) string {
	text, err := os.ReadFile(f.root + name)
	require.NoError(f.t, err)
	return string(text)
}

func (f *folder) Stat(name string) (lxc.Info, error) {
	info, err := os.Stat(f.root + name)
	if err != nil {
		return lxc.Info{}, err
	}
	return lxc.Info{Mode: info.Mode(), Size: info.Size()}, nil
}

func (f *folder) ReadDir(name string, most int) ([]string, error) {
	entries, err := os.ReadDir(f.root + name)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) > most {
		return nil, fmt.Errorf("%s has more than %d entries", name, most)
	}
	return names, err
}

func (f *folder) ReadFile(name string, limit int64) ([]byte, error) {
	text, err := os.ReadFile(f.root + name)
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return text, err
}

func (f *folder) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return os.WriteFile(f.root+name, data, mode)
}

func (f *folder) CopyIn(_ context.Context, r io.Reader, name string, mode fs.FileMode) (int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	return int64(len(data)), os.WriteFile(f.root+name, data, mode)
}

func (f *folder) MkdirAll(name string, mode fs.FileMode) error { return os.MkdirAll(f.root+name, mode) }

func (f *folder) Remove(name string) error {
	err := os.Remove(f.root + name)
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func (f *folder) Free(string) (uint64, error) { return 100 << 30, nil }

func (f *folder) Run(_ context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	f.ran = append(f.ran, strings.Join(cmd.Args, " "))
	if f.script == nil {
		f.t.Errorf("a process was started: %v", cmd.Args)
		return lxc.Result{Code: 127}, nil
	}
	res := f.script(cmd.Args)
	for _, out := range [][]byte{res.Stdout, res.Stderr} {
		for line := range strings.Lines(string(out)) {
			cmd.OnLine(strings.TrimRight(line, "\n"))
		}
	}
	return res, nil
}

// logged keeps what is logged; hook is called with each line.
type logged struct {
	t     *testing.T
	mu    sync.Mutex
	lines []string
	hook  func(line string)
}

func (l *logged) add(level, format string, args ...any) {
	line := level + fmt.Sprintf(format, args...)
	l.mu.Lock()
	l.lines = append(l.lines, line)
	l.mu.Unlock()
	if l.t != nil && testing.Verbose() {
		l.t.Log(line)
	}
	if l.hook != nil {
		l.hook(line)
	}
}

func (l *logged) Infof(format string, args ...any)  { l.add("", format, args...) }
func (l *logged) Warnf(format string, args ...any)  { l.add("warning: ", format, args...) }
func (l *logged) Debugf(format string, args ...any) { l.add("debug: ", format, args...) }

func (l *logged) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(s string) bool { return strings.Contains(s, part) })
}
