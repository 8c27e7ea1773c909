package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/mirror"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/worker"
)

func TestMain(m *testing.M) {
	lookInWorker = filepath.Base(os.Args[0]) == "pve-nvidia-hook"
	testscript.Main(m, map[string]func(){
		"pve-nvidia-hook": func() {
			ctx, args := context.Background(), os.Args[1:]
			switch {
			case hook.IsCall(args):
				worker.Exit(hook.Call(ctx, args))
			case worker.Is() && args[0] == hook.WorkerCommand:
				worker.Exit(hook.Work(ctx))
			}
			worker.Exit(Main(ctx, args))
		},
		"terminal": terminal,
	})
}

// The commands as a person types them, one script for each, in testdata. With
// UPDATE=1 the files that a script compares with are written anew.
func TestCommands(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the cache takes only files that belong to root")
	}
	samples := t.TempDir()
	for _, v := range []string{"550.163.01", "580.142"} {
		if _, err := fakerun.Write(samples, fakerun.Spec{Version: v, Arch: "x86_64", NoDecompressor: true}); err != nil {
			t.Fatal(err)
		}
	}
	pct := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(pct, "pct"), "../test/fakepct").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m, err := mirror.Serve(samples, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       os.Getenv("UPDATE") == "1",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PVE_NVIDIA_HOOK_CONFIG", filepath.Join(e.WorkDir, "config.toml"))
			e.Setenv("PVE_NVIDIA_HOOK_HOST_ROOT", filepath.Join(e.WorkDir, "host"))
			e.Setenv("TZ", "UTC")
			bin, _, _ := strings.Cut(e.Getenv("PATH"), ":") // where the commands above are
			e.Setenv("BIN", filepath.Join(bin, "pve-nvidia-hook"))
			e.Setenv("ALLPATHS", e.Getenv("PATH"))
			e.Setenv("SAMPLES", samples)
			e.Setenv("PCT", pct) // its folder, for scripts that need one
			e.Setenv("SSL_CERT_FILE", m.Cert)
			config, err := os.ReadFile(filepath.Join(e.WorkDir, "config.toml"))
			if err != nil {
				config = nil // most need nothing special
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "config.toml"), append(config, settings(e.WorkDir, m.URL())...), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "nobody": nobody},
	})
}

// settings are those of every script: all folders below its own. A script's own
// config.toml stands before them and may hold [driver.x] and [containers.x] only.
func settings(dir, url string) string {
	return "\n[driver]\nurls = [" + strconv.Quote(url) + "]\n[cache]\ndir = " + strconv.Quote(filepath.Join(dir, "cache")) +
		"\n[paths]\nstate = " + strconv.Quote(filepath.Join(dir, "state")) + "\nrun = " + strconv.Quote(filepath.Join(dir, "run")) +
		"\nlxc = " + strconv.Quote(filepath.Join(dir, "lxc")) + "\nmetrics = \"\"\n"
}

// exits runs a command and expects an exit status: exits 2 COMMAND ARGUMENT...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%v: exit status %d, expected %d\n%s", slices.Clone(args[1:]), got, want, ts.ReadFile("stderr"))
	}
}

// nobody runs this program as a user that may nothing on a real node, and expects
// an exit status: nobody 1 ARGUMENT...
func nobody(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	program, err := os.Open(ts.Getenv("BIN"))
	ts.Check(err)
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3", args[1:]...) // the folders on the way are root's
	cmd.Args[0] = "pve-nvidia-hook"
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); cmd.ProcessState == nil {
		ts.Check(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("%v: exit status %d, expected %d", args[1:], got, want)
	}
}
