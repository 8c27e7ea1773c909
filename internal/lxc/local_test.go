package lxc_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// What a look that must not hang does with mounts of the container: it enters
// none, and says so.
func TestALocalLookEntersNoOtherFileSystem(t *testing.T) {
	const file = "/var/lib/x/y/file"
	for name, c := range map[string]struct {
		spec  lab.Spec
		mount func(t *testing.T, at *lab.Container) error
		in    string // what is looked for in the error
	}{
		"tmpfs on the way": {mount: func(t *testing.T, at *lab.Container) error {
			sh(t, at, "mount -t tmpfs x /var/lib/x")
			return nil
		}},
		"tmpfs over the file": {mount: func(t *testing.T, at *lab.Container) error {
			sh(t, at, "mount --bind /etc/passwd "+file)
			return nil
		}},
		"a link to another mount": {mount: func(t *testing.T, at *lab.Container) error {
			sh(t, at, "rm -r /var/lib/x; ln -s /dev/shm /var/lib/x")
			return nil
		}},
		"FUSE on the way": {spec: lab.Spec{Privileged: true}, mount: func(t *testing.T, at *lab.Container) error {
			return at.Wedge(t.Context(), "/var/lib/x")
		}},
		"FUSE behind an overlay": {spec: lab.Spec{Privileged: true}, mount: func(t *testing.T, at *lab.Container) error {
			return at.WedgeBehindOverlay(t.Context(), "/var/lib/x/y")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.spec.VMID, c.spec.Plain = 101, true
			at := labtest.Start(t, c.spec)
			sh(t, at, "mkdir -p /var/lib/x/y && echo text >"+file)
			look := func() (text string, beyond bool) {
				l, err := lxc.OpenLocal(t.Context(), at.LXCPath, at.VMID)
				require.NoError(t, err)
				defer l.Close()
				data, readErr := l.ReadFile(file, 100)
				entry := l.LstatAll([]string{file})[0]
				require.Equal(t, readErr == nil, entry.Err == nil, "%v, %v", readErr, entry.Err)
				return string(data), l.Beyond()
			}
			text, beyond := look()
			require.Equal(t, "text\n", text)
			require.False(t, beyond)
			require.NoError(t, c.mount(t, at))
			text, beyond = within(t, at, look)
			require.Empty(t, text)
			require.True(t, beyond)
		})
	}
}

func TestALocalLookSeesTheNamesInDev(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true, Plain: true})
	look := func() (string, bool) {
		l, err := lxc.OpenLocal(t.Context(), at.LXCPath, at.VMID)
		require.NoError(t, err)
		defer l.Close()
		names, _ := l.ReadDir("/dev", 1000)
		return strings.Join(names, " "), l.Beyond()
	}
	names, beyond := look()
	require.Contains(t, names, "null")
	require.False(t, beyond)
	require.NoError(t, at.Wedge(t.Context(), "/dev"))
	names, beyond = within(t, at, look)
	require.Empty(t, names)
	require.True(t, beyond)
}

// A container whose root itself is served by one of its processes.
func TestALocalLookAtAServedRootFindsNothing(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true})
	require.NoError(t, at.ServeRoot(t.Context()))
	text, beyond := within(t, at, func() (string, bool) {
		l, err := lxc.OpenLocal(t.Context(), at.LXCPath, at.VMID)
		require.NoError(t, err)
		defer l.Close()
		text, err := l.ReadFile("/etc/hostname", 100)
		require.Error(t, err)
		return string(text), l.Beyond()
	})
	require.Empty(t, text)
	require.True(t, beyond)
}

// The lock of a folder of its own is enough for a container to hold who looks for a
// name there that the kernel does not know yet.
func TestALocalLookWaitsForNoLockOfAFolder(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101, Privileged: true, Plain: true})
	require.NoError(t, at.HoldFolder(t.Context(), "/var/lib"))
	_, beyond := within(t, at, func() (string, bool) {
		l, err := lxc.OpenLocal(t.Context(), at.LXCPath, at.VMID)
		require.NoError(t, err)
		defer l.Close()
		_, err = l.ReadFile("/var/lib/new/file", 100)
		require.Error(t, err)
		return "", l.Beyond()
	})
	require.True(t, beyond)
}

// Behind an overlay anything may stand.
func TestALocalLookAtAnOverlayFindsNothing(t *testing.T) {
	at := labtest.Start(t, lab.Spec{VMID: 101})
	l, err := lxc.OpenLocal(t.Context(), at.LXCPath, at.VMID)
	require.NoError(t, err)
	defer l.Close()
	_, err = l.Lstat("/etc")
	require.Error(t, err)
	require.True(t, l.Beyond())
}

// within fails the test when f hangs, after it has freed it.
func within(t *testing.T, at *lab.Container, f func() (string, bool)) (string, bool) {
	t.Helper()
	type answer struct {
		text   string
		beyond bool
	}
	done := make(chan answer, 1)
	go func() {
		text, beyond := f()
		done <- answer{text, beyond}
	}()
	select {
	case a := <-done:
		return a.text, a.beyond
	case <-time.After(5 * time.Second):
		_ = at.Stop()
		t.Fatal("the look hangs")
		return "", false
	}
}
