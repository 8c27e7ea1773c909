// Command demo shows the main job on a real, unprivileged, throwaway container:
// the first start installs and verifies the driver and restarts a service that wants
// it, the second one skips. It removes all that it made, also on failure and on Ctrl-C, but the base root that
// containers stand on, which is kept for the next time.
//
//	go run ./internal/test/demo                    a sample run file from a mirror on loopback
//	go run ./internal/test/demo -runfile FILE      one of NVIDIA's own
//	go run ./internal/test/demo -version 580.76.05 the same, fetched from NVIDIA
//	go run ./internal/test/demo -clean             remove the base roots
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
	driver "github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const vmid = 101

var errLeft = errors.New("not all that the demo made is removed")

func main() {
	runFile := flag.String("runfile", "", "one of NVIDIA's run files")
	version := flag.String("version", "", "fetch this version from NVIDIA")
	clean := flag.Bool("clean", false, "remove the base roots, which are kept for the next time, and end")
	program := flag.String("program", "", "the built program (default: build it)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var made bool
	var err error
	if *clean {
		err = lab.Clean(ctx)
	} else {
		made, err = demo(ctx, *runFile, *version, *program)
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, errLeft) {
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything that it made is removed but the base root (make clean-lab removes it)")
		os.Exit(130)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		if h := hint.Of(err); h != "" {
			fmt.Fprintln(os.Stderr, "demo: hint:", h)
		}
		if made && !errors.Is(err, errLeft) {
			fmt.Fprintln(os.Stderr, "demo: everything that it made is removed but the base root (make clean-lab removes it)")
		}
		os.Exit(1)
	}
}

// source is where the demo's run file comes from.
type source struct {
	version string
	samples string // folder that the mirror serves
	real    bool   // NVIDIA's own: without a GPU nvidia-smi cannot answer
	fetched bool   // from NVIDIA, by the hook
}

// blind reports whether nvidia-smi cannot answer in the container.
func (src source) blind() bool { return src.real && !onGPU(src) }

// demo reports besides its error whether it had begun to make something.
func demo(ctx context.Context, runFile, version, program string) (made bool, err error) {
	if err := lab.Missing(); err != nil {
		return false, err
	}
	l, err := lab.Open(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		if closed := l.Close(); closed != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", errLeft, closed))
		}
	}()
	// In the lab's folder, which goes with the lab, even when this process is killed.
	dir := filepath.Join(l.Dir, "demo")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return false, err
	}
	src, err := findSource(dir, runFile, version)
	if err != nil {
		return false, err
	}
	if program == "" {
		if program, err = rig.Build(ctx, dir); err != nil {
			return false, err
		}
	}
	return true, show(ctx, l, dir, src, program)
}

// show is the demo itself, with its files in dir.
func show(ctx context.Context, l *lab.Lab, dir string, src source, program string) error {
	say("making an unprivileged container that boots systemd and has no kmod (the first time takes half a minute)")
	c, err := l.Container(ctx, lab.Spec{VMID: vmid, Systemd: true, ExtraConfig: gpuConfig(src)})
	if err != nil {
		return err
	}
	if err := give(c); err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	before, err := seen(ctx, c, 1)
	if err != nil {
		return err
	}
	r, err := rig.New(dir, program, l.Path, src.samples)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := configure(r, src); err != nil {
		return err
	}
	if src.blind() {
		fmt.Printf("  (no GPU with driver %s on this machine: the demo sets verify = \"files\", so nvidia-smi is not asked)\n", src.version)
	}
	first, err := start(ctx, r, "first start: no driver in the container")
	if err != nil {
		return err
	}
	after, err := seen(ctx, c, 2)
	if err != nil {
		return err
	}
	say("a service that was started with the container, before the driver was there")
	fmt.Printf("  %s found: %s; restarted by the hook: %s\n", service, before, after)
	second, err := start(ctx, r, "second start: nothing to do")
	if err != nil {
		return err
	}
	if src.blind() {
		say("nvidia-smi in the container: it is there, but finds no GPU")
	} else {
		say("nvidia-smi in the container")
	}
	smi, err := c.Attach(ctx, "nvidia-smi")
	fmt.Println(indent(smi))
	if err != nil && !src.blind() {
		return err
	}
	say(fmt.Sprintf("done: installed in %.2f s, skipped in %.3f s; everything that the demo made is being removed but the base root in %s, some 400 MB kept for the next time: make clean-lab removes it",
		first.Seconds(), second.Seconds(), lab.Dir()))
	return nil
}

func findSource(dir, runFile, version string) (source, error) {
	src := source{version: "580.142", samples: filepath.Join(dir, "samples")}
	if err := os.Mkdir(src.samples, 0o755); err != nil {
		return src, err
	}
	if version != "" {
		if _, err := driver.Parse(version); err != nil {
			return src, err
		}
		src.version, src.real = version, true
	}
	if runFile != "" {
		return offer(src, runFile, version)
	}
	if version != "" {
		src.fetched = true
		return src, nil
	}
	say("writing a sample run file in NVIDIA's format, served by https on loopback")
	path, err := fakerun.Write(src.samples, fakerun.Spec{Version: src.version})
	if err == nil {
		fmt.Println("  " + filepath.Base(path))
	}
	return src, err
}

// offer puts one of NVIDIA's run files, and its .sha256sum where there is one, by
// their proper names where the mirror serves them.
func offer(src source, runFile, version string) (source, error) {
	if _, err := os.Stat(runFile); err != nil {
		return src, err
	}
	h, err := cache.HeaderOf(runFile)
	if err != nil {
		return src, hint.Wrap(err, "name one of NVIDIA's run files that lies here, such as RUNFILE=/root/NVIDIA-Linux-x86_64-580.76.05.run, or leave RUNFILE out")
	}
	arch, err := host.Arch()
	if err != nil {
		return src, err
	}
	want := runfile.Want{Version: driver.Driver(version), Arch: arch}
	if err := h.Check(want); err != nil {
		err = fmt.Errorf("%s: %w", runFile, err)
		if version != "" && string(h.Version) != version {
			err = hint.Wrap(err, fmt.Sprintf("leave VERSION out, or name VERSION=%s", h.Version))
		}
		return src, err
	}
	abs, err := filepath.Abs(runFile)
	if err != nil {
		return src, err
	}
	src.version, src.real = string(h.Version), true
	served := filepath.Join(src.samples, cache.FileName(h.Version, h.Arch))
	if err := os.Symlink(abs, served); err != nil {
		return src, err
	}
	if _, err := os.Stat(abs + ".sha256sum"); err != nil {
		return src, nil // the hook says that there is none
	}
	return src, os.Symlink(abs+".sha256sum", served+".sha256sum")
}

// onGPU reports whether the host runs the demo's driver: then the real
// nvidia-smi can answer in the container.
func onGPU(src source) bool {
	module, err := host.Host{}.Module()
	return src.real && err == nil && string(module) == src.version
}

func gpuConfig(src source) []string {
	if !onGPU(src) {
		return nil
	}
	nodes, _ := filepath.Glob("/dev/nvidia*") // the pattern is right
	var lines []string
	for _, n := range nodes {
		lines = append(lines, fmt.Sprintf("lxc.mount.entry = %s %s none bind,optional,create=file", n, n[1:]))
	}
	return lines
}

func configure(r *rig.Rig, src source) error {
	if err := r.Module(src.version); err != nil {
		return err
	}
	text := "[driver]\n"
	if src.blind() {
		text += "verify = \"files\"\n"
	}
	if err := r.Configure(text); err != nil || !src.fetched {
		return err
	}
	file := r.Path("config.toml")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// The default URLs are NVIDIA's.
	data = regexp.MustCompile(`(?m)^urls = .*\n`).ReplaceAll(data, nil)
	return os.WriteFile(file, data, 0o644)
}

func start(ctx context.Context, r *rig.Rig, title string) (time.Duration, error) {
	say(title)
	fmt.Printf("  # pve-nvidia-hook %d post-start\n", vmid)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	cmd := r.Command(ctx, strconv.Itoa(vmid), "post-start")
	lines, err := cmd.StderrPipe() // the hook says everything there
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(lines); s.Scan(); {
		fmt.Println("  " + here(s.Text()))
	}
	if err := cmd.Wait(); err != nil {
		return 0, errors.New("the hook has failed, it says why above")
	}
	return time.Since(began), nil
}

// here has the hook's advice fit the demo, whose cache goes with it.
func here(line string) string {
	return strings.ReplaceAll(line, "pve-nvidia-hook cache add FILE", "make demo RUNFILE=FILE")
}

func say(text string) { fmt.Println("==> " + text) }

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}
