package hook_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// long reports whether the long form of a test is asked for, as internal/test/torture does.
func long() bool { return os.Getenv("PVE_NVIDIA_HOOK_TORTURE") == "1" }

// canaries are files of the host that a container tries to have read or changed.
type canaries struct {
	dir    string
	secret string // in each of them
	before string
	t      *testing.T
}

func newCanaries(t *testing.T) *canaries {
	t.Helper()
	c := &canaries{dir: filepath.Join(t.TempDir(), "canaries"), secret: "canary-5f1c3e77a0", t: t}
	long, read := time.Unix(1e9, 0), time.Unix(9e8, 0) // read before it was written: relatime would note each read
	for _, name := range []string{
		"secret", "installed.json", "log", "os-release", "status", "nvidia-installer.log", "nvidia-uninstall", "libcuda.so.1",
		"bin/modprobe", "stage/bin/modprobe", "stage/tree/x", "stage/tmp/x", "tree/nvidia-installer", "tmp/x", "100",
	} {
		file := filepath.Join(c.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(c.secret+"\n"), 0o644))
		require.NoError(t, os.Chtimes(file, read, long))
	}
	c.before = c.look()
	return c
}

// look describes all canaries, with the time when each was last read.
func (c *canaries) look() string {
	c.t.Helper()
	out, err := exec.Command("find", c.dir, "-type", "f", "-printf", "%P %y %m %U %G %s %A@ %T@ %C@ %n\n", "-o", "-printf", "%P %y %m %U %G %T@ %C@\n").CombinedOutput()
	require.NoError(c.t, err, string(out))
	return string(out)
}

// unharmed expects that no canary was changed, read or told.
func (c *canaries) unharmed(said string) {
	c.t.Helper()
	require.Equal(c.t, c.before, c.look(), "the host's files were touched")
	require.NotContains(c.t, said, c.secret)
	harmless(c.t, said)
}

// harmless expects that no control character reaches log and terminal.
func harmless(t *testing.T, said string) {
	t.Helper()
	for _, r := range said {
		require.False(t, r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r >= 0x202a && r <= 0x202e), "%q", said)
	}
}

// touched are the places of a container that the hook reads, writes or removes.
var touched = []string{
	"var/lib/pve-nvidia-hook",
	"var/lib/pve-nvidia-hook/installed.json",
	"var/lib/pve-nvidia-hook/stage",
	"var/lib/pve-nvidia-hook/stage/bin",
	"var/lib/pve-nvidia-hook/stage/bin/modprobe",
	"var/lib/pve-nvidia-hook/stage/tree",
	"var/lib/pve-nvidia-hook/stage/tmp",
	"var/lib/nvidia",
	"var/lib/nvidia/log",
	"var/log/nvidia-installer.log",
	"var/lib/dpkg/status",
	"usr/bin/nvidia-uninstall",
	"usr/bin/nvidia-smi",
	"usr/lib/x86_64-linux-gnu/libcuda.so.1",
	"usr/lib/x86_64-linux-gnu/libcuda.so." + newer,
	"usr/lib/x86_64-linux-gnu/libcuda.so.100.1",
	"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
	"usr/lib/firmware/nvidia",
	"usr/lib/nvidia",
}

// touchedByToolkit are the places that matter to the CUDA toolkit.
var touchedByToolkit = []string{
	"etc/os-release",
	"usr/lib/os-release",
	"etc/apt/sources.list.d",
	"etc/apt/sources.list.d/pve-nvidia-hook-cuda.list",
	"etc/apt/sources.list.d/theirs.sources",
	"etc/apt/preferences.d/pve-nvidia-hook",
	"etc/profile.d/pve-nvidia-hook-cuda.sh",
	"usr/share/keyrings/cuda-archive-keyring.gpg",
	"usr/local/cuda",
	"usr/local/cuda-12.8/bin/nvcc",
	"var/lib/dpkg/lock-frontend",
	"var/lib/dpkg/updates",
}

// kinds are what a container lays there.
var kinds = []struct {
	name string
	lay  func(g *guest, c *canaries, file string) error
}{
	{"a link to a file of the host", func(g *guest, c *canaries, file string) error {
		return os.Symlink(filepath.Join(c.dir, "secret"), file)
	}},
	{"a link up and out to a file", func(g *guest, c *canaries, file string) error {
		return os.Symlink(strings.Repeat("../", 40)+strings.TrimPrefix(c.dir, "/")+"/secret", file)
	}},
	{"a link to a folder of the host", func(g *guest, c *canaries, file string) error {
		return os.Symlink(c.dir, file)
	}},
	{"a link up and out to a folder", func(g *guest, c *canaries, file string) error {
		return os.Symlink(strings.Repeat("../", 40)+strings.TrimPrefix(c.dir, "/"), file)
	}},
	{"a link by the root of the host's init", func(g *guest, c *canaries, file string) error {
		return os.Symlink("/proc/1/root"+c.dir+"/secret", file)
	}},
	{"a link to itself", func(g *guest, c *canaries, file string) error {
		return os.Symlink(filepath.Base(file), file)
	}},
	{"a FIFO", func(g *guest, c *canaries, file string) error { return unix.Mkfifo(file, 0o666) }},
	{"a socket", func(g *guest, c *canaries, file string) error { return unix.Mknod(file, unix.S_IFSOCK|0o666, 0) }},
	{"an endless device", func(g *guest, c *canaries, file string) error {
		return unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
	}},
	{"a full folder", func(g *guest, c *canaries, file string) error {
		return os.MkdirAll(filepath.Join(file, "a", "b"), 0o755)
	}},
	{"a hard link", func(g *guest, c *canaries, file string) error { return os.Link(g.file("etc/passwd"), file) }},
	{"a gigabyte of holes", func(g *guest, c *canaries, file string) error {
		return os.WriteFile(file, nil, 0o755)
	}},
	{"a file system", func(g *guest, c *canaries, file string) error {
		if err := os.MkdirAll(file, 0o755); err != nil {
			return err
		}
		g.sh("mount -t tmpfs none /" + strings.TrimPrefix(file, g.Root) + " && echo " + "x >/" + strings.TrimPrefix(file, g.Root) + "/x")
		return nil
	}},
}

func TestNothingLaidInTheWayLeadsToTheHost(t *testing.T) {
	for name, spec := range map[string]lab.Spec{"unprivileged": {}, "privileged": {Privileged: true}} {
		t.Run(name, func(t *testing.T) {
			if !spec.Privileged && !long() {
				t.Skip("the privileged one is the harder; both are done in the long form")
			}
			n := newNode(t, newer)
			n.configure("[install]\ntimeout = \"10s\"\n")
			c := newCanaries(t)
			g := n.start(spec)
			g.postStart(0)
			g.layEach(c, touched)
			g.heals()
			c.unharmed("")
		})
	}
}

// layEach lays each kind of thing at each place (in the quick form one kind for
// each), runs the hook, takes the thing away and, in the long form, expects that
// the next run heals.
func (g *guest) layEach(c *canaries, places []string) {
	t := g.node.t
	t.Helper()
	for i, place := range places {
		for j, kind := range kinds {
			if !long() && (i+j)%len(kinds) != 0 {
				continue
			}
			file := g.file(place)
			g.sh("mkdir -p " + filepath.Dir("/"+place)) // of the container's root, as all that it has
			aside := g.file("root/aside")
			had := os.Rename(file, aside) == nil
			require.NoError(t, kind.lay(g, c, file), "%s at %s", kind.name, place)
			if kind.name == "a gigabyte of holes" {
				require.NoError(t, os.Truncate(file, 1<<30))
			}

			began := time.Now()
			said, code := g.anyhow("--force")
			require.Contains(t, []int{0, 1}, code, said)
			require.Less(t, time.Since(began), 30*time.Second, "%s at %s: %s", kind.name, place, said)
			require.NotContains(t, said, "panic")
			c.unharmed(said)

			g.sh("umount /" + place + " 2>/dev/null; true")
			require.NoError(t, os.RemoveAll(file))
			if had && os.Rename(aside, file) != nil { // its folder has gone with a failed driver
				require.NoError(t, os.RemoveAll(aside))
			}
			if long() {
				said, code = g.anyhow("--force")
				require.Zero(t, code, "after %s at %s: %s", kind.name, place, said)
			}
		}
	}
}

func TestNothingLaidInTheWayOfTheToolkitLeadsToTheHost(t *testing.T) {
	n := newNode(t, newer)
	n.configure(fmt.Sprintf("[cuda]\ntoolkit = \"12.8\"\nrepo_url = %q\n[install]\nbackground = \"never\"\ntimeout = \"10s\"\n", toolkitRepo(t, cuda128)))
	c := newCanaries(t)
	g := n.start(lab.Spec{Privileged: true, HostNet: true, Plain: true}) // folders of a base below an overlay cannot be moved
	g.alone()
	g.postStart(0)
	g.layEach(c, touchedByToolkit)
	said, code := g.anyhow("--force")
	require.Zero(t, code, said)
	require.Contains(t, said, "nvcc 12.8.93")
	c.unharmed(said)
}

// anyhow runs the hook by hand and returns what it said and its exit status.
func (g *guest) anyhow(flags ...string) (string, int) {
	g.node.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	said, err := g.node.Run(ctx, append([]string{"replay", strconv.Itoa(g.VMID), "post-start"}, flags...)...)
	require.NoError(g.node.t, err, said.Text)
	return said.Text, said.Code
}

// heals expects that the next run installs the driver, however long it takes: a
// test's short timeout is for what hangs.
func (g *guest) heals() {
	n := g.node
	n.t.Helper()
	config, err := os.ReadFile(n.Path("config.toml"))
	require.NoError(n.t, err)
	patient := n.Path(fmt.Sprintf("patient-%d.toml", g.VMID))
	require.NoError(n.t, os.WriteFile(patient, regexp.MustCompile(`(?m)^timeout = .*`).ReplaceAll(config, nil), 0o644))
	r := *n.Rig
	r.Env = append(slices.Clip(r.Env), "PVE_NVIDIA_HOOK_CONFIG="+patient)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	said, err := r.Run(ctx, "replay", strconv.Itoa(g.VMID), "post-start", "--force")
	require.NoError(n.t, err, said.Text)
	require.Zero(n.t, said.Code, said.Text)
	g.holds(newer)
}

// A process of the container exchanges what the hook works with, as fast as it can.
func TestARaceForThePlacesLeadsNowhere(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"10s\"\n")
	c := newCanaries(t)
	g := n.start(lab.Spec{Privileged: true})
	g.postStart(0)
	rounds := 2
	if long() {
		rounds = 30
	}
	for _, place := range []string{
		"/var/lib/pve-nvidia-hook", "/var/lib/pve-nvidia-hook/stage", "/var/lib/pve-nvidia-hook/stage/tree",
		"/var/lib/pve-nvidia-hook/installed.json", "/var/lib/nvidia", "/var/log/nvidia-installer.log",
	} {
		t.Run(place, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			script := fmt.Sprintf("while :; do mv %[1]s /racing; ln -s %[2]s %[1]s; rm %[1]s; ln -s ../../../../../../../..%[2]s %[1]s; rm %[1]s; mkdir %[1]s; rmdir %[1]s; mv /racing %[1]s; done", place, c.dir)
			racer := exec.CommandContext(ctx, "lxc-attach", "-P", g.LXCPath, "-n", strconv.Itoa(g.VMID), "--", "sh", "-c", script)
			require.NoError(t, racer.Start())
			for range rounds {
				said, code := g.anyhow("--force")
				require.Contains(t, []int{0, 1}, code, said)
				require.NotContains(t, said, "panic")
				c.unharmed(said)
			}
			cancel()
			_ = racer.Wait() // killed
			g.sh(`for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q 'racin[g];' && kill -9 ${p#/proc/}; done
				# The tree may have been mounted in a folder that was then moved away.
				while at=$(cut -d' ' -f5 /proc/self/mountinfo | grep -m1 -E '^/racing|pve-nvidia-hook/'); do umount -l "$at"; done
				rm -rf /racing ` + place)
			g.heals()
		})
	}
	c.unharmed("")
}

func TestRecordsThatAreAnAttackAreNotBelieved(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.postStart(0)
	record := g.file("var/lib/pve-nvidia-hook/installed.json")
	good, err := os.ReadFile(record)
	require.NoError(t, err)
	for name, text := range map[string]string{
		"deep":               strings.Repeat("[", 250<<10),
		"deep in a field":    `{"format":1,"toolkit":` + strings.Repeat(`{"a":`, 40<<10),
		"control characters": `{"format":1,"version":"\u001b[31m\u001b]0;owned\u0007` + newer + `"}`,
		"raw escapes":        "\x1b[2J\x1b]0;owned\x07{",
		"a link of escapes":  strings.Replace(string(good), `"link": "`, `"link": "\u001b[2J\u202e`, 1),
		"paths out":          `{"format":1,"version":"` + newer + `","files":[{"path":"/../../../etc/passwd","size":1}]}`,
		"a huge number":      `{"format":1e999999}`,
		"a gigabyte":         "{",
		"no text":            strings.Repeat("\x00", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(record, []byte(text), 0o644))
			if name == "a gigabyte" {
				require.NoError(t, os.Truncate(record, 1<<30))
			}
			said := g.postStart(0)
			require.Contains(t, said, "is installed and nvidia-smi works")
			harmless(t, said)
			g.holds(newer)
		})
	}
}

// A record is the container's claim. It must not make the hook remove files that
// are no driver's, in the container either.
func TestARecordCannotHaveOtherFilesRemoved(t *testing.T) {
	n := newNode(t, newer)
	g := n.start(lab.Spec{})
	g.sh("echo keep >/etc/keep; echo keep >/usr/bin/nvidia-keep.txt; mkdir -p /var/lib/pve-nvidia-hook")
	text := `{"format":1,"version":"` + older + `","files":[{"path":"/etc/keep","size":5},{"path":"/etc/passwd","size":1},{"path":"/usr/bin/nvidia-keep.txt","size":5},{"path":"/usr/lib","size":1}]}`
	require.NoError(t, os.WriteFile(g.file("var/lib/pve-nvidia-hook/installed.json"), []byte(text), 0o644))
	g.postStart(0)
	g.holds(newer)
	for _, name := range []string{"etc/keep", "etc/passwd", "usr/bin/nvidia-keep.txt"} {
		require.FileExists(t, g.file(name))
	}
}

func TestWhatTheContainerSaysIsMadeHarmless(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"10s\"\n")
	g := n.start(lab.Spec{})
	g.postStart(0)
	escapes := `\033[2J\033]0;owned\007\r\033[31m\302\233A \342\200\256 \377`
	for name, prepare := range map[string]string{
		"ldconfig":           `printf '#!/bin/sh\nprintf "` + strings.ReplaceAll(escapes, `\`, `\\`) + `\\n"; printf "` + strings.ReplaceAll(escapes, `\`, `\\`) + `\\n" >&2; exit 1\n' >/usr/local/sbin/ldconfig; chmod +x /usr/local/sbin/ldconfig`,
		"nvidia-smi":         `printf 'version=` + escapes + `' >/etc/sample-nvidia-smi`,
		"its failure":        `printf '#!/bin/sh\nprintf "` + strings.ReplaceAll(escapes, `\`, `\\`) + `"; exit 9\n' >/usr/local/bin/nvidia-smi; chmod +x /usr/local/bin/nvidia-smi`,
		"installer's log":    `echo rc=1 >/etc/sample-nvidia-installer; printf '#!/bin/sh\nprintf "ERROR: ` + strings.ReplaceAll(escapes, `\`, `\\`) + `\\n" >>/var/log/nvidia-installer.log\nexec /usr/bin/tr "$@"' >/usr/local/bin/tr; chmod +x /usr/local/bin/tr`,
		"a package's name":   `printf '\nPackage: libcuda1\nStatus: install ok installed\n` + escapes + `\n' >>/var/lib/dpkg/status`,
		"a link's direction": `rm /usr/lib/x86_64-linux-gnu/libcuda.so.1; ln -s "$(printf '` + escapes + `')" /usr/lib/x86_64-linux-gnu/libcuda.so.1`,
	} {
		t.Run(name, func(t *testing.T) {
			g.sh("cp /var/lib/dpkg/status /root/status")
			g.sh(prepare)
			for _, flags := range [][]string{nil, {"--force"}} {
				said, _ := g.anyhow(flags...)
				harmless(t, said)
			}
			g.sh("cp /root/status /var/lib/dpkg/status; rm -f /usr/local/sbin/ldconfig /usr/local/bin/nvidia-smi /usr/local/bin/tr /etc/sample-nvidia-smi /etc/sample-nvidia-installer")
			g.heals()
		})
	}
	// What is kept on the host is harmless too, as JSON escapes it.
	require.NoError(t, filepath.WalkDir(n.Path("state"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		require.NotContains(t, string(data), "\x1b", name)
		return err
	}))
}

func TestProgramsThatGoWildAreEnded(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ntimeout = \"3s\"\n")
	cases := []struct{ name, prepare string }{
		{"an installer that prints for ever", `echo forever >/etc/sample-nvidia-installer`},
		{"an ldconfig that hangs and ignores signals", `printf '#!/bin/sh\ntrap "" TERM HUP INT; while :; do sleep 1000; done\n' >/usr/local/sbin/ldconfig; chmod +x /usr/local/sbin/ldconfig`},
		{"an ldconfig that forks without end", `printf '#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do (trap "" TERM; while :; do sleep 0.3; done) & done\nsleep 1000\n' >/usr/local/sbin/ldconfig; chmod +x /usr/local/sbin/ldconfig`},
		{"an nvidia-smi that leaves a daemon", `echo daemon >/etc/sample-nvidia-smi`},
		{"a daemon in a session of its own", `printf '#!/bin/sh\nsetsid sleep 100000 </dev/null >/dev/null 2>&1 &\n' >/usr/local/sbin/ldconfig; chmod +x /usr/local/sbin/ldconfig`},
	}
	if long() { // nvidia-smi may take 90 s, as a first call after a boot does with many GPUs
		for _, fault := range []string{"hang", "hang-ignore-term", "forever", "daemon hang"} {
			cases = append(cases, struct{ name, prepare string }{"an nvidia-smi told to " + fault, "echo '" + fault + "' >/etc/sample-nvidia-smi"})
		}
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if long() {
				t.Parallel()
			}
			g := n.start(lab.Spec{VMID: 400 + i, Privileged: i%2 == 0})
			g.sh(c.prepare)
			began := time.Now()
			said, code := g.anyhow("--force")
			require.Contains(t, []int{0, 1}, code, said)
			require.Less(t, time.Since(began), 110*time.Second)
			require.Less(t, len(said), 1<<20)
			harmless(t, said)
			g.clean()
			require.Equal(t, "", g.sh(`for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -E '^(sleep (100|0\.3|2147)|/bin/sh /usr/local/sbin)' ; done; true`))
			g.sh("rm -f /usr/local/sbin/ldconfig /etc/sample-nvidia-smi /etc/sample-nvidia-installer")
			g.heals()
		})
	}
}

// While a real install runs from the mounted tree, the container's root tries to
// write to it, also after a remount.
func TestContainerRootCannotChangeTheCacheDuringAnInstall(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[install]\ndeliver = \"mount\"\n")
	g := n.start(lab.Spec{Privileged: true})
	g.postStart(0)
	tree := filepath.Join(n.Cache(), "NVIDIA-Linux-x86_64-"+newer)
	before := fingerprint(t, tree)
	g.sh("echo slow=0.05 >/etc/sample-nvidia-installer")
	cmd := n.Command(t.Context(), "replay", strconv.Itoa(g.VMID), "post-start", "--force")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(g.file("var/lib/nvidia/log"))
		return err == nil && strings.Contains(g.sh("cat /proc/self/mounts"), "/var/lib/pve-nvidia-hook/stage/tree")
	}, 20*time.Second, 10*time.Millisecond)
	out := g.sh(`cd /var/lib/pve-nvidia-hook/stage/tree && try() { "$@" 2>/dev/null && echo "$*"; }
		all() { try touch new; try cp /etc/passwd .manifest; try rm -f .manifest; try chmod 777 .; try chown 0 nvidia-installer; try mkdir d; try truncate -s 0 nvidia-smi; try mv nvidia-smi x; try ln nvidia-smi y; }
		all; mount -o remount,bind,rw . 2>/dev/null; mount -o remount,rw . 2>/dev/null; all; true`)
	require.Empty(t, out)
	require.NoError(t, cmd.Wait())
	require.Equal(t, before, fingerprint(t, tree))
	g.sh("rm /etc/sample-nvidia-installer")
	g.holds(newer)
}

// fingerprint is all of a tree that must not change.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -printf '%P %y %m %U %G %s %T@ %C@\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum`, "sh", dir).CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}
