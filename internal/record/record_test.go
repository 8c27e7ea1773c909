package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// memory is a container that holds one file.
type memory struct{ data []byte }

func (m *memory) ReadFile(_ string, limit int64) ([]byte, error) {
	if m.data == nil {
		return nil, fs.ErrNotExist
	}
	if int64(len(m.data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return m.data, nil
}
func (m *memory) WriteFile(_ string, data []byte, _ fs.FileMode) error { m.data = data; return nil }
func (m *memory) MkdirAll(string, fs.FileMode) error                   { return nil }
func (m *memory) Remove(string) error                                  { m.data = nil; return nil }

// full is a container whose disk takes no more.
type full struct{ memory }

func (*full) WriteFile(string, []byte, fs.FileMode) error { return unix.ENOSPC }

func TestFullDiskIsNamed(t *testing.T) {
	require.Contains(t, hint.Of(Write(&full{}, Installed{})), "the container's disk is full")
}

func TestRecordComesBackAsItWasWritten(t *testing.T) {
	c := &memory{}
	none, err := Read(c)
	require.NoError(t, err)
	require.Nil(t, none)

	in := Installed{Version: "580.142", Arch: "x86_64", Files: []File{{Path: "/usr/bin/nvidia-smi", Size: 7}, {Path: "/usr/lib/libcuda.so.1", Link: "libcuda.so.580.142"}}, Verified: "nvidia-smi", At: time.Unix(1, 0).UTC(), Toolkit: json.RawMessage(`{"ok":true}`)}
	require.NoError(t, Write(c, in))
	got, err := Read(c)
	require.NoError(t, err)
	require.Equal(t, in.Files, got.Files)
	require.Equal(t, in.Version, got.Version)
	require.JSONEq(t, `{"ok":true}`, string(got.Toolkit))
	require.NoError(t, Remove(c))
	none, err = Read(c)
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestRecordThatCannotBeBelieved(t *testing.T) {
	for name, data := range map[string]string{
		"no JSON":         "x",
		"empty":           "",
		"other format":    `{"format":2,"version":"580.142"}`,
		"no version":      `{"format":1,"version":"../../etc"}`,
		"relative path":   `{"format":1,"version":"580.142","files":[{"path":"usr/bin/x"}]}`,
		"path with dots":  `{"format":1,"version":"580.142","files":[{"path":"/usr/../../etc/passwd"}]}`,
		"deep":            `{"format":1,"toolkit":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
		"too many files":  `{"format":1,"files":[` + strings.Repeat(`{"path":"/a"},`, 2001) + `{"path":"/a"}]}`,
		"too large":       `{"format":1,"by":"` + strings.Repeat("x", sizeLimit) + `"}`,
		"wrong type":      `{"format":1,"files":{}}`,
		"number too long": `{"format":1,"files":[{"path":"/a","size":1e99}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Read(&memory{[]byte(data)})
			require.Error(t, err)
			require.Nil(t, in)
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"format":1,"version":"580.142","files":[{"path":"/usr/bin/nvidia-smi","size":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := Read(&memory{data})
		if err == nil && in != nil && in.check() != nil {
			t.Fatal("a record was returned that does not pass its own check")
		}
	})
}

func TestTheLastTwentyRunsAreKept(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	for i := range 25 {
		require.NoError(t, r.Save(101, time.Unix(int64(i), 0), false, map[string]int{"run": i}))
		names, err := r.List(101)
		require.NoError(t, err)
		file := names[len(names)-1]
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	}
	names, err := r.List(101)
	require.NoError(t, err)
	require.Len(t, names, 20)
	var last map[string]int
	found, err := r.Last(101, &last)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, 24, last["run"])
	info, err := os.Stat(r.State)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
}

// A clock that was once ahead does not decide which run is the last.
func TestTheOrderOfRunsIsNotTheClocks(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	for i := range 20 {
		require.NoError(t, r.Save(101, time.Date(2036, 1, 1, 0, 0, i, 0, time.UTC), false, i))
	}
	require.NoError(t, r.Save(101, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), false, 20))
	var last int
	found, err := r.Last(101, &last)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, 20, last)
	require.NoError(t, r.Save(101, time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC), true, 21))
	names, err := r.List(101)
	require.NoError(t, err)
	require.Len(t, names, 20)
	require.Contains(t, names[18], "00000021-2026")
}

func TestWhatAKilledRunHasLeftGoesWithTheNext(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	none := func() {
		t.Helper()
		left, err := filepath.Glob(filepath.Join(r.State, "*", "*.new"))
		require.NoError(t, err)
		require.Empty(t, left)
		left, err = filepath.Glob(filepath.Join(r.folder(101), ".*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	require.NoError(t, r.Save(101, time.Unix(1, 0), false, 1))
	none()
	plant := func() {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(r.folder(101), newName), []byte(`{"half":`), 0o600))
	}
	plant()
	require.NoError(t, r.Save(101, time.Unix(2, 0), false, 2))
	none()
	require.NoError(t, os.MkdirAll(filepath.Join(r.State, "failures"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(r.State, "failures", "101"+newName), []byte(`{"half":`), 0o600))
	require.NoError(t, r.Failed(101, Failure{At: time.Unix(3, 0), Inputs: "inputs", Reason: "why"}))
	none()
	require.Equal(t, "why", r.Failure(101).Reason)
	var last int
	found, err := r.Last(101, &last)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, 2, last)
}

func TestRunsThatEndAtTheSameTimeAreAllKept(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	var all sync.WaitGroup
	for i := range keep {
		all.Go(func() {
			err := r.Save(101, time.Unix(int64(i), 0), false, strings.Repeat("x", 100_000))
			if err = errors.Join(err, r.Failed(101, Failure{At: time.Unix(1, 0), Inputs: "inputs", Reason: "why"})); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	names, err := r.List(101)
	require.NoError(t, err)
	require.Len(t, names, keep)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.True(t, json.Valid(data))
	}
	require.NotNil(t, r.Failure(101))
}

func BenchmarkSave(b *testing.B) {
	r := Runs{State: filepath.Join(b.TempDir(), "state")}
	at := time.Unix(1, 0)
	for b.Loop() {
		at = at.Add(time.Second)
		if err := r.Save(101, at, false, strings.Repeat("x", 5000)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestATraceThatACrashHasTornIsPassedOver(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	for i := range 4 {
		require.NoError(t, r.Save(101, time.Unix(int64(i), 0), false, map[string]int{"run": i}))
		names, err := r.List(101)
		require.NoError(t, err)
		file := names[len(names)-1]
		switch i {
		case 2:
			require.NoError(t, os.Truncate(file, 0))
		case 3:
			require.NoError(t, os.Truncate(file, 5))
		}
	}
	var last map[string]int
	found, err := r.Last(101, &last)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, 1, last["run"])

	names, err := r.List(101)
	require.NoError(t, err)
	for _, name := range names {
		require.NoError(t, os.Truncate(name, 0))
	}
	found, err = r.Last(101, &last)
	require.Error(t, err)
	require.False(t, found)
	left, err := filepath.Glob(filepath.Join(r.State, "runs", "101", ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAStateFolderOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	require.Error(t, Runs{State: link}.Save(101, time.Now(), false, 1))

	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777))
	require.Error(t, Runs{State: open}.Save(101, time.Now(), false, 1))
}

func TestWhatAnotherHasWrittenIsNotRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	require.NoError(t, r.Save(101, time.Now(), false, 1))
	files, err := r.List(101)
	require.NoError(t, err)
	require.NoError(t, r.Failed(101, Failure{At: time.Now(), Inputs: "inputs", Reason: "why"}))
	require.NotNil(t, r.Failure(101))
	require.NoError(t, os.Chown(r.failureFile(101), 1000, 1000))
	require.Nil(t, r.Failure(101), "it would keep the driver away for as long as it says")
	require.NoError(t, os.Chmod(files[0], 0o666))
	var last int
	found, err := r.Last(101, &last)
	require.ErrorContains(t, err, "mode 0666")
	require.False(t, found)
}

func TestDelaysGrowAndEnd(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	now := time.Unix(1000, 0)
	var delays []time.Duration
	for range 12 {
		require.NoError(t, r.Failed(101, Failure{At: now, Inputs: "same", Reason: "why", Hint: "do"}))
		delays = append(delays, r.Failure(101).Next.Sub(now))
	}
	require.Equal(t, 5*time.Minute, delays[0])
	require.Equal(t, 10*time.Minute, delays[1])
	require.Equal(t, 24*time.Hour, delays[11])
	require.NoError(t, r.Failed(101, Failure{At: now, Inputs: "other", Reason: "why", Hint: "do"}))
	require.Equal(t, 1, r.Failure(101).Count, "other inputs begin anew")
	r.Succeeded(101)
	require.Nil(t, r.Failure(101))
}

func TestAnImpossibleFailureIsForgotten(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	now := time.Now()
	require.NoError(t, r.Failed(101, Failure{At: now, Inputs: "same", Reason: "why", Hint: "do"}))
	for _, text := range []string{`{"count":-5,"inputs":"same"}`, `{"inputs":"same"}`, `{"count":`} {
		require.NoError(t, os.WriteFile(r.failureFile(101), []byte(text), 0o600))
		require.Nil(t, r.Failure(101), text)
		require.NoError(t, r.Failed(101, Failure{At: now, Inputs: "same", Reason: "why", Hint: "do"}))
		require.Equal(t, 1, r.Failure(101).Count)
	}
}

// The timer alone would else push out within two hours what a person may ask for.
func TestSkippedRunsGoBeforeThoseThatDidSomething(t *testing.T) {
	r := Runs{State: filepath.Join(t.TempDir(), "state")}
	var told []string
	for i := range 100 {
		require.NoError(t, r.Save(101, time.Unix(int64(i), 0), i%10 != 0, i))
		if i%10 == 0 {
			names, err := r.List(101)
			require.NoError(t, err)
			told = append(told, names[len(names)-1])
		}
	}
	kept, err := r.List(101)
	require.NoError(t, err)
	require.Len(t, kept, 20)
	require.Subset(t, kept, told)
	var last int
	had, err := r.Last(101, &last)
	require.NoError(t, err)
	require.True(t, had)
	require.Equal(t, 99, last)
	for i := 100; i < 140; i++ {
		require.NoError(t, r.Save(101, time.Unix(int64(i), 0), false, i))
	}
	kept, err = r.List(101)
	require.NoError(t, err)
	require.Len(t, kept, 20)
}

// What a record carries for others is the container's word. Written again with an
// indent for each level, ten such parts would take a gigabyte of the host's memory.
func TestARecordThatNestsDeepIsNotBelieved(t *testing.T) {
	const depth = 9000
	part := `{"ok":true,"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
	_, err := Read(&memory{data: []byte(`{"format":1,"version":"550.163.01","toolkit":` + part + `}`)})
	require.ErrorContains(t, err, "objects and lists")
	_, err = ReadBegun(&memory{data: []byte(`{"version":"550.163.01","x":` + part + `}`)})
	require.ErrorContains(t, err, "objects and lists")
}
