package cuda

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/cudatest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// bench is a real container with the host's network, a repository on loopback,
// and what is wanted of it so far.
type bench struct {
	t      *testing.T
	ctx    context.Context // of the next Install
	lab    *lab.Container
	c      *lxc.Container
	dir    string // of the server: DISTRO/x86_64 below it
	url    string // of the server
	folder string // NVIDIA's name of the system, "": by the suite
	key    *cudatest.Key
	gets   atomic.Int64 // packages that were fetched
	log    *logged
	want   Want
	had    Installed
	saved  []Installed
	full   Container // in the place of c, nil: c
}

// folderOf is NVIDIA's folder name that a suite of Debian belongs to.
var folderOf = map[string]string{"bookworm": "debian12", "trixie": "debian13"}

func newBench(t *testing.T, suite string) *bench {
	return newBenchOn(t, lab.Spec{VMID: 101, Privileged: true, HostNet: true, Base: &lab.Base{Name: "minimal", Suite: suite}})
}

func newBenchOn(t *testing.T, spec lab.Spec) *bench {
	b := newBareBench(t, spec)
	// Nothing outside this machine is asked for packages.
	b.in("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* && touch /etc/apt/sources.list")
	return b
}

func newBareBench(t *testing.T, spec lab.Spec) *bench {
	labtest.Need(t)
	labtest.Program(t, "gpg")
	b := &bench{t: t, ctx: t.Context(), dir: t.TempDir(), log: &logged{t: t}}
	b.lab = labtest.Start(t, spec)
	var err error
	b.c, err = lxc.Open(t.Context(), b.lab.LXCPath, 101)
	require.NoError(t, err)
	t.Cleanup(func() { b.c.Close() })

	files := http.FileServer(http.Dir(b.dir))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ext := filepath.Ext(r.URL.Path); ext == ".deb" || ext == ".rpm" {
			b.gets.Add(1)
		}
		files.ServeHTTP(w, r)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.url = "http://" + listener.Addr().String()
	go server.Serve(listener)
	if !spec.HostNet {
		go server.Serve(listenIn(t, b.c.Pid(), listener.Addr().String()))
	}
	t.Cleanup(func() { server.Close() })

	b.key = newKey(t)
	b.want = Want{Arch: "x86_64", Driver: "580.95.05", RepoURL: b.repo("a"),
		Timeout: 2 * time.Minute, NetworkWait: 20 * time.Second, LockWait: 20 * time.Second, step: 50 * time.Millisecond,
		Save: func(in Installed) error { b.saved = append(b.saved, in); return nil }}
	return b
}

// inNetwork runs f in the network namespace of a process.
func inNetwork(t *testing.T, pid int, f func() error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	require.NoError(t, <-done)
}

// listenIn listens at an address in the network namespace of a process, so that
// a container without any network finds the server on its own loopback.
func listenIn(t *testing.T, pid int, address string) net.Listener {
	var listener net.Listener
	inNetwork(t, pid, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener
}

// networkUp brings the loopback of a container up, its only network.
func (b *bench) networkUp() {
	inNetwork(b.t, b.c.Pid(), func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		lo.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	})
}

func newKey(t *testing.T) *cudatest.Key {
	// gpg's agent cannot make its socket where the path is long.
	dir, err := os.MkdirTemp("", "key")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, err := cudatest.NewKey(t.Context(), dir)
	require.NoError(t, err)
	return key
}

func (b *bench) distro() string {
	if b.folder != "" {
		return b.folder
	}
	return folderOf[b.lab.Spec.Base.Suite]
}

func (b *bench) repo(name string) string {
	return b.url + "/" + name + "/" + b.distro() + "/x86_64/"
}

// publish fills a repository with packages signed by key. The keyring package in
// it names the URL lists.
func (b *bench) publish(name, lists string, key *cudatest.Key, packages ...cudatest.Package) {
	b.t.Helper()
	dir := filepath.Join(b.dir, name, b.distro(), "x86_64")
	require.NoError(b.t, cudatest.Write(b.t.Context(), dir, key,
		append(packages, cudatest.Keyring(lists, b.distro(), "x86_64", b.key))))
}

func toolkits() []cudatest.Package {
	all := cudatest.Rest()
	all = append(all, cudatest.Toolkit("12.8.1", "12.8.93", "570")...)
	all = append(all, cudatest.Toolkit("12.9.1", "12.9.86", "575")...)
	all = append(all, cudatest.Toolkit("13.0.2", "13.0.88", "580")...)
	return append(all, cudatest.Toolkit("13.3.0", "13.3.20", "610")...)
}

func (b *bench) in(args ...string) string {
	b.t.Helper()
	out, err := b.try(args...)
	require.NoError(b.t, err, out)
	return out
}

func (b *bench) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return b.lab.Attach(ctx, args...)
}

// install runs Install as its caller does: what it returns is kept for the next run.
func (b *bench) install(change func(*Want)) error {
	b.t.Helper()
	w := b.want
	w.Had = b.had
	if change != nil {
		change(&w)
	}
	b.log.lines = nil
	var err error
	c := Container(b.c)
	if b.full != nil {
		c = b.full
	}
	b.had, err = Install(b.ctx, c, w, b.log)
	require.Equal(b.t, err == nil, b.had.OK)
	if err == nil && !b.had.Empty() {
		ok, why := Current(unmovable{b.c, b.t}, b.had, w)
		require.True(b.t, ok, why)
	}
	return err
}

func (b *bench) remove() {
	b.t.Helper()
	left, err := Remove(b.ctx, b.c, b.had, b.want, b.log)
	require.NoError(b.t, err)
	require.True(b.t, left.Empty(), "%+v", left)
	require.True(b.t, Pinned(b.c), "the driver's packages are kept out as long as the driver is there")
	require.NoError(b.t, Unpin(b.c))
	if b.had.Tool == toolApt { // which removes the index of a repository with its next update
		b.in("apt-get", "update")
	}
	b.had = Installed{}
}

// unmovable is a container in which no process may be started and no file opened.
type unmovable struct {
	Container
	t *testing.T
}

func (u unmovable) Run(context.Context, lxc.Cmd) (lxc.Result, error) {
	u.t.Error("the skip path started a process")
	return lxc.Result{}, nil
}

// state is what a container is made of for apt's and a user's eye: packages with
// their states and marks, and all files of some folders.
func (b *bench) state() map[string]string {
	b.t.Helper()
	all := map[string]string{
		"packages": b.in("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n"),
		"manual":   b.in("apt-mark", "showmanual"),
	}
	for _, dir := range []string{"etc", "usr/local", "usr/share/keyrings", "var/lib/apt", "var/lib/pve-nvidia-hook", "var/cache/apt/archives"} {
		root := filepath.Join(b.lab.Root, dir)
		_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == "ld.so.cache" || d.Name() == "lock" || d.Name() == "extended_states" {
				return nil
			}
			text, err := os.ReadFile(name)
			require.NoError(b.t, err)
			all[strings.TrimPrefix(name, b.lab.Root)] = fmt.Sprintf("%x", sha256.Sum256(text))
			return nil
		})
	}
	return all
}

// same requires the container to be as it was, and shows only what differs.
func (b *bench) same(was map[string]string) {
	b.t.Helper()
	requireSame(b.t, was, b.state())
}

func requireSame(t *testing.T, was, now map[string]string) {
	t.Helper()
	for name, old := range was {
		require.Equal(t, old, now[name], name)
	}
	for name := range now {
		_, there := was[name]
		require.True(t, there, "%s is new", name)
	}
}

func (b *bench) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(b.lab.Root, name))
	return err == nil
}

func (b *bench) packages() string { return b.in("dpkg-query", "-W", "-f", "${Package} ") }
