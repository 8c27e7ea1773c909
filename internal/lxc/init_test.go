package lxc_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// hostileInit is the init of a privileged container. When /root/go is there it
// unshares its user namespace and has a child, which keeps the capabilities of
// the host, give it the map of an unprivileged container. The calls are
// unshare(2), by its number on x86_64.
const hostileInit = `#!/usr/bin/perl
select(undef, undef, undef, 0.01) until -e "/root/go";
pipe(my $in, my $out);
if (!fork) {
	close $out; <$in>;
	for my $map ("uid_map", "gid_map") {
		open(my $f, ">", "/proc/1/$map") or die; syswrite($f, "0 100000 65536\n"); close $f;
	}
	open(my $f, ">", "/root/done"); close $f;
	sleep 1 while 1;
}
close $in;
syscall(272, 0x10000000) == 0 or die "unshare: $!";
close $out;
sleep 1 while 1;
`

// hostile starts a privileged container with hostileInit. What it returns has
// that init change its user namespace.
func hostile(t *testing.T) (at *lab.Container, change func()) {
	t.Helper()
	l := labtest.Open(t)
	at, err := l.Container(t.Context(), lab.Spec{VMID: 101, Privileged: true, ExtraConfig: []string{"lxc.init.cmd = /usr/local/sbin/hostile"}})
	require.NoError(t, err)
	file := filepath.Join(at.Root, "usr/local/sbin/hostile")
	require.NoError(t, os.WriteFile(file, []byte(hostileInit), 0o755))
	require.NoError(t, os.Chmod(file, 0o755))
	require.NoError(t, at.Start(t.Context()))
	return at, func() {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(at.Root, "root/go"), nil, 0o644))
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(at.Root, "root/done"))
			return err == nil
		}, 20*time.Second, 10*time.Millisecond)
	}
}

// Root of a privileged container that passes for an unprivileged one would be
// given what is safe from that one only.
func TestAnInitThatLeavesItsUserNamespaceIsRefused(t *testing.T) {
	at, change := hostile(t)
	before, err := lxc.Open(t.Context(), at.LXCPath, 101)
	require.NoError(t, err)
	defer before.Close()
	require.True(t, before.Privileged())
	change()
	after, err := lxc.Open(t.Context(), at.LXCPath, 101)
	if err == nil {
		after.Close()
	}
	require.ErrorContains(t, err, "has left the user namespace that it was started in")
	require.NotErrorIs(t, err, lxc.ErrNotRunning)
}

// A container that passes the look and changes afterwards gains nothing: whatever
// it is, the tree has a superblock of its own there.
func TestNoContainerIsGivenTheHostsSuperblock(t *testing.T) {
	at, change := hostile(t)
	c, err := lxc.Open(t.Context(), at.LXCPath, 101)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.MkdirAll("/mnt/tree", 0o755))
	change()
	dir := tree(t)
	require.NoError(t, c.MountTree(t.Context(), dir, "/mnt/tree"))
	var host, inside unix.Stat_t
	require.NoError(t, unix.Stat(dir, &host))
	pid, err := at.Pid(t.Context())
	require.NoError(t, err)
	require.NoError(t, unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "root/mnt/tree"), &inside))
	require.NotEqual(t, host.Dev, inside.Dev)
}
