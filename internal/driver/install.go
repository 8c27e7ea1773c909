package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/runfile"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Job is one installation of a run file in a container.
type Job struct {
	RunFile string         // path on the host
	Tree    string         // path on the host of the same, unpacked
	Report  runfile.Report // what is known of it
	Deliver string         // auto | mount | push
	Flags   []string       // further options for the installer
	Timeout time.Duration  // for the installer
	Log     say.Log
}

// Version is the driver version that the job installs.
func (j Job) Version() version.Driver { return j.Report.Header.Version }

// Ready checks what would make Install fail, before anything is written or
// removed for it: the configured options, the room on the container's disk, and
// what the container needs when the run file is to be copied into it. What an
// older driver takes is room too: it is removed first.
func Ready(c *lxc.Container, j Job, in *record.Installed) error {
	if err := knownFlags(j); err != nil {
		return err
	}
	size, err := j.installed()
	if err != nil {
		return err
	}
	size -= taken(c, j.Report.Header.Arch, in)
	if err := enough(c, "/usr", size, "for driver "+string(j.Version())); err != nil {
		return err
	}
	if j.Deliver != "push" {
		err := lxc.CanMount(j.Tree)
		switch {
		case err == nil:
			return nil
		case j.Deliver == "mount" || !errors.Is(err, lxc.ErrNoMount):
			return unmountable(err)
		}
	}
	return pushable(c, j, size)
}

// installed is how many bytes the user space takes when it is installed.
func (j Job) installed() (int64, error) {
	m, err := manifest(j.Tree)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range m.UserSpace(Options(j.Report.Header, j.Flags)...) {
		if e.IsLink() {
			continue
		}
		if info, err := os.Lstat(filepath.Join(j.Tree, e.Path)); err == nil {
			sum += info.Size()
		}
	}
	return sum, nil
}

func unmountable(err error) error {
	return hint.Wrap(fmt.Errorf("mount the unpacked run file in the container: %w", err),
		`set deliver = "push" to have the run file copied instead`)
}

func knownFlags(j Job) error {
	for _, o := range j.Flags {
		if !j.Report.Header.Knows(o) {
			return hint.Errorf(`remove it from "flags" in the configuration`,
				"the installer of %s does not know the option %s", j.Version(), o)
		}
	}
	return nil
}

// pushable checks what the container needs for a run file that is copied into
// it and unpacked there, beside the size bytes of the driver itself.
func pushable(c *lxc.Container, j Job, size int64) error {
	// The stub at the start of a run file is a script that calls these.
	if missing := Missing(c, "tar", "cksum", "awk", "md5sum", "head", "cut", "mktemp", "chown"); len(missing) > 0 {
		return hint.Errorf("install these packages in the container, or put the cache on a file system that can be the lower layer of an overlay (ext4, xfs, btrfs, zfs)",
			"the run file needs %s in the container", strings.Join(missing, ", "))
	}
	return enough(c, path.Dir(record.Folder), j.Report.Size+j.Report.Unpacked+size, "to copy the run file in, unpack and install it")
}

// Install runs NVIDIA's installer for the user space in the container and
// returns how the run file was delivered, "mount" or "push". Its success proves
// nothing (the installer exits 0 after errors): call Verify. Whatever happens,
// what it put into the container to do so is gone when it returns.
func Install(ctx context.Context, c *lxc.Container, j Job) (delivered string, err error) {
	if err := prepare(ctx, c); err != nil {
		return "", err
	}
	defer func() {
		if cleared := Clear(ctx, c); cleared != nil {
			err = errors.Join(err, cleared)
		}
	}()
	if j.Deliver != "push" {
		err := c.MountTree(ctx, j.Tree, stageTree)
		switch {
		case err == nil:
			return "mount", runInstaller(ctx, c, j, []string{path.Join(stageTree, "nvidia-installer")})
		case j.Deliver == "mount" || !errors.Is(err, lxc.ErrNoMount):
			return "", unmountable(err)
		}
		j.Log.Infof("copying the run file instead of mounting it: %v", err)
	}
	return "push", push(ctx, c, j)
}

// push copies the run file into the container, checks the copy and executes it there.
func push(ctx context.Context, c *lxc.Container, j Job) error {
	size, err := j.installed()
	if err != nil {
		return err
	}
	if err := pushable(c, j, size); err != nil { // the mount may have been refused only now
		return err
	}
	src, err := os.Open(j.RunFile)
	if err != nil {
		return fmt.Errorf("copy the run file into the container: %w", err)
	}
	defer src.Close()
	inside := path.Join(stage, path.Base(j.RunFile))
	if _, err := c.CopyIn(ctx, src, inside, 0o700); err != nil {
		return fmt.Errorf("copy the run file into the container: %w", err)
	}
	if err := same(c, inside, j.Report); err != nil {
		return err
	}
	return runInstaller(ctx, c, j, []string{"sh", inside, "--tmpdir", stageTmp})
}

// same checks that the copy in the container is the verified file.
func same(c *lxc.Container, inside string, want runfile.Report) error {
	f, err := c.OpenFile(inside)
	if err != nil {
		return fmt.Errorf("check the copied run file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, want.Size+1))
	if err != nil {
		return fmt.Errorf("check the copied run file: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != want.Size || got != want.SHA256 {
		return fmt.Errorf("check the copied run file: %d bytes with sha256 %s, expected %d with %s", n, got, want.Size, want.SHA256)
	}
	return nil
}

// enough checks that a container has room for need bytes at name, and some to spare.
func enough(c *lxc.Container, name string, need int64, what string) error {
	const spare = 64 << 20 // for ldconfig's cache, logs and the like
	need = max(need, 0)
	free, err := c.Free(name)
	if err != nil {
		return fmt.Errorf("ask for the room on the container's disk: %w", err)
	}
	if free < uint64(need)+spare {
		return hint.Errorf(fmt.Sprintf("make room in the container or enlarge its disk by at least %s (pct resize)", say.Bytes(need+spare-int64(free))),
			"the container's disk has %s free, %s are needed %s", say.Bytes(int64(free)), say.Bytes(need+spare), what)
	}
	return nil
}

// wantedFlags are the options of an unattended installation of the user space.
// Each is passed only when the run file's installer knows it: one that it does
// not know ends it with nothing done.
var wantedFlags = []string{
	"--silent",
	noModules,
	"--no-nouveau-check", // it looks at the host's PCI devices
	"--no-x-check",
	"--no-rpms",
	"--no-check-for-alternate-installs", // Blockers has looked
	"--no-distro-scripts",
	"--no-nvidia-modprobe", // a setuid program that loads modules
	"--no-install-compat32-libs",
	"--no-install-libglvnd",
	"--no-libglx-indirect",
	"--no-systemd",
	"--no-wine-files",
	"--skip-depmod",
}

// noModules is the name that every installer takes. Since 515.43.04 it is an
// alias that the help text does not list.
const noModules = "--no-kernel-module"

// Options returns the options for the installer of a run file.
func Options(h runfile.Header, extra []string) []string {
	var options []string
	for _, o := range wantedFlags {
		if o == noModules && h.Knows(noModules+"s") {
			o += "s"
		}
		if h.Knows(o) {
			options = append(options, o)
		}
	}
	return append(options, extra...)
}

// InstallerLog is nvidia-installer's log in the container.
const InstallerLog = "/var/log/nvidia-installer.log"

// debugLines says what a program writes, but for empty lines.
func debugLines(log say.Log, who string) func(string) {
	return func(line string) {
		if strings.TrimSpace(line) != "" {
			log.Debugf("%s: %s", who, line)
		}
	}
}

func runInstaller(ctx context.Context, c *lxc.Container, j Job, command []string) error {
	if err := knownFlags(j); err != nil {
		return err
	}
	// An installer that ends early writes no log: that of an earlier run would
	// be shown as its own.
	if err := c.Remove(InstallerLog); err != nil {
		j.Log.Debugf("%v", err)
	}
	args := append(command, Options(j.Report.Header, j.Flags)...)
	args = append(args, "--log-file-name="+InstallerLog)
	j.Log.Debugf("running %s", strings.Join(args, " "))
	result, err := c.Run(ctx, lxc.Cmd{
		Args:    args,
		Env:     []string{"PATH=" + stageBin + ":" + lxc.Path, "TMPDIR=" + stageTmp},
		Timeout: j.Timeout,
		OnLine:  debugLines(j.Log, "installer"),
		Reap:    true,
	})
	switch {
	case errors.Is(err, lxc.ErrDeadline):
		return hint.Errorf(`see why it hangs in the container's `+InstallerLog+`, or raise "timeout" under [install]`,
			"nvidia-installer %s did not end within %v and was ended", j.Version(), j.Timeout)
	case err != nil:
		return fmt.Errorf("run nvidia-installer %s: %w", j.Version(), err)
	case result.Code != 0:
		return installerFailed(c, j, result)
	}
	return nil
}

// installerFailed explains an exit status of the installer.
func installerFailed(c *lxc.Container, j Job, r lxc.Result) error {
	err := fmt.Errorf("nvidia-installer %s failed with exit status %d", j.Version(), r.Code)
	for _, line := range LogTail(c, 6) {
		j.Log.Warnf("%s: %s", path.Base(InstallerLog), line)
	}
	if text := lastLine(r.Stderr, r.Stdout); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	switch r.Code {
	case 135: // SIGBUS: a full disk under the installer's mapped copy
		return hint.Wrap(err, "the container's disk is full: make room or enlarge it (pct resize)")
	case 137:
		return hint.Wrap(err, "it was killed, most likely for lack of memory: raise the container's memory to 512 MB or more")
	case 143:
		return hint.Wrap(err, "something in the container ended it (SIGTERM): look for a driver package's pre-install script")
	case 126, 127:
		return hint.Wrap(err, "it could not be executed in the container: look for a noexec mount at "+stage+" or a container of another architecture")
	}
	return hint.Wrap(err, "see "+InstallerLog+" in the container")
}

func lastLine(texts ...[]byte) string {
	for _, text := range texts {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
			return say.Clean(last, 300)
		}
	}
	return ""
}

// LogTail returns the last lines of the installer's log that say something,
// its errors alone where it has any, at most n.
func LogTail(c *lxc.Container, n int) []string {
	f, err := c.OpenFile(InstallerLog)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 64 << 10
	if f.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil
	}
	var errs, rest []string
	for _, line := range strings.Split(string(text), "\n") {
		line = say.Clean(strings.TrimSpace(line), 300)
		switch {
		case line == "":
		case strings.HasPrefix(line, "ERROR:"):
			errs = append(errs, line)
		default:
			rest = append(rest, line)
		}
	}
	if len(errs) > 0 {
		rest = errs
	}
	return rest[max(0, len(rest)-n):]
}
