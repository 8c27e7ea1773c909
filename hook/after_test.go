package hook_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
)

// user maps the library that the driver's link leads to, adds which one it saw to
// a file, and stays, also without one.
const user = `#!/usr/bin/perl
my $name = readlink("/usr/lib/x86_64-linux-gnu/libcuda.so.1") // "none";
if (open(my $f, "<", "/usr/lib/x86_64-linux-gnu/libcuda.so.1")) { syscall(9, 0, 4096, 1, 2, fileno($f), 0) > 0 or die }
open(my $seen, ">>", "/root/$ARGV[0].saw"); print $seen "$name\n"; close($seen);
sleep 1000 while 1;
`

// give puts a service into a container that is not running: it is started at each
// boot, as a user's is.
func (g *guest) give(service string) {
	g.node.t.Helper()
	t := g.node.t
	unit := "[Service]\nExecStart=/usr/local/bin/user " + service + "\n[Install]\nWantedBy=multi-user.target\n"
	require.NoError(t, os.WriteFile(g.file("usr/local/bin/user"), []byte(user), 0o755))
	require.NoError(t, os.WriteFile(g.file("etc/systemd/system/"+service+".service"), []byte(unit), 0o644))
	wants := g.file("etc/systemd/system/multi-user.target.wants")
	require.NoError(t, os.MkdirAll(wants, 0o755))
	require.NoError(t, os.Symlink("../"+service+".service", filepath.Join(wants, service+".service")))
}

// saw waits until a service has started so many times, and says what it saw.
func (g *guest) saw(service string, times int) []string {
	g.node.t.Helper()
	var all []string
	require.Eventually(g.node.t, func() bool {
		text, _ := os.ReadFile(g.file("root/" + service + ".saw"))
		all = strings.Fields(string(text))
		return len(all) >= times
	}, 30*time.Second, 50*time.Millisecond, service)
	return all
}

func (n *node) withServices(t *testing.T, names ...string) *guest {
	t.Helper()
	c, err := n.lab.Container(t.Context(), lab.Spec{VMID: 101, Systemd: true})
	require.NoError(t, err)
	g := &guest{c, n}
	for _, name := range names {
		g.give(name)
	}
	require.NoError(t, c.Start(t.Context()))
	for _, name := range names {
		g.saw(name, 1)
	}
	return g
}

func TestServicesHaveTheDriverAfterAStart(t *testing.T) {
	n := newNode(t, older)
	n.configure("[after]\nrestart = [\"named.service\"]\n")
	g := n.withServices(t, "ollama", "named", "plain")

	// The first start: none of them found a driver.
	said := g.postStart(0)
	require.Contains(t, said, "driver "+older+" is installed and nvidia-smi works, restarted named.service, ollama.service (")
	require.Equal(t, []string{"none", "libcuda.so." + older}, g.saw("ollama", 2))
	require.Equal(t, []string{"none", "libcuda.so." + older}, g.saw("named", 2))
	require.Equal(t, []string{"none"}, g.saw("plain", 1), "nothing tells that it wants a GPU")

	// A start after the host was upgraded: plain holds the old driver by now.
	require.NoError(t, g.Stop())
	require.NoError(t, g.Start(t.Context()))
	g.saw("ollama", 3)
	require.Equal(t, []string{"none", "libcuda.so." + older}, g.saw("plain", 2))
	require.NoError(t, n.Module(newer))
	n.configure("[after]\nrestart = \"never\"\nrun = [[\"sh\", \"-c\", \"echo $0 >>/root/ran\", \"a b\"], [\"false\"]]\n")
	said = g.postStart(0)
	require.Contains(t, said, "plain.service still uses driver "+older+"; restart it, or the container: pct reboot 101")
	require.Contains(t, said, "after.run: false: exit status 1")
	require.Equal(t, "a b", g.sh("cat /root/ran"))
	g.holds(newer)
	require.Regexp(t, `(?m)^! 101 .*plain\.service still uses driver `+older, n.run(0, "status", "101"))

	// A person says when.
	require.NotContains(t, n.run(0, "apply", "101"), "restarted")
	require.Equal(t, []string{"none", "libcuda.so." + older}, g.saw("plain", 2))
	said = n.run(0, "apply", "101", "--restart")
	require.Contains(t, said, "restarted ")
	require.Equal(t, "libcuda.so."+newer, g.saw("plain", 3)[2])
	require.NotContains(t, n.run(0, "status", "101"), "still uses")
	require.Equal(t, "a b", g.sh("cat /root/ran"), "nothing was installed, so nothing is run")
	require.Contains(t, g.postStart(0), "is in place")
}

func TestAContainerIsRebootedOnceForADriver(t *testing.T) {
	n := newNode(t, newer)
	n.configure("[after]\nreboot = true\n")
	g := n.withServices(t, "app")
	first, err := g.Pid(t.Context())
	require.NoError(t, err)
	require.Contains(t, g.postStart(0), "driver "+newer+" is installed and nvidia-smi works, the container reboots")
	require.Equal(t, []string{"none", "libcuda.so." + newer}, g.saw("app", 2))
	pid := 0
	require.Eventually(t, func() bool {
		pid, err = g.Pid(context.Background())
		return err == nil && pid != first
	}, 30*time.Second, 50*time.Millisecond)
	require.NoError(t, g.WaitBooted(t.Context()))
	g.holds(newer)
	require.Contains(t, n.run(0, "status", "101"), newer)

	// A container that loses its driver at each start is not rebooted at each.
	g.sh("rm /usr/lib/x86_64-linux-gnu/libcuda.so." + newer)
	require.NotContains(t, g.postStart(0), "reboots")
	g.holds(newer)
	again, err := g.Pid(t.Context())
	require.NoError(t, err)
	require.Equal(t, pid, again)
}
