package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wedge is a FUSE server that reads every request and answers none but the
// first, INIT (number 26): protocol 7.31, 64 bytes behind a header of 16.
const wedge = `
my ($dir, $name, $type) = (shift, "wedge", "fuse");
sysopen(my $f, "/dev/fuse", 2) or die "open: $!";
my $o = "fd=" . fileno($f) . ",rootmode=40000,user_id=0,group_id=0,allow_other";
syscall(165, $name, $dir, $type, 0, $o) == 0 or die "mount: $!";
while (sysread($f, my $b, 200000)) {
	my ($len, $op, $id) = unpack("L L Q", $b);
	next if $op != 26;
	syswrite($f, pack("L l Q L L L L S S L L x32", 80, 0, $id, 7, 31, 4096, 0, 8, 6, 4096, 1));
}`

// Wedge mounts at dir in a privileged container a FUSE file system that never
// answers. It lasts until the container stops or the connection is aborted.
func (c *Container) Wedge(ctx context.Context, dir string) error {
	if err := showConnections(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Root, "root/wedge"), []byte(wedge), 0o644); err != nil {
		return err
	}
	out, err := c.Attach(ctx, "sh", "-c", "test -e /dev/fuse || mknod /dev/fuse c 10 229; mkdir -p "+dir+"; setsid perl /root/wedge "+dir+" </dev/null >/root/wedge.log 2>&1 &")
	if err != nil {
		return fmt.Errorf("container %d: start a FUSE server: %w: %s", c.VMID, err, out)
	}
	pid, err := c.Pid(ctx)
	if err != nil {
		return err
	}
	for range 500 {
		mounts, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
		if err != nil {
			return err
		}
		if strings.Contains(string(mounts), " "+dir+" ") && strings.Contains(string(mounts), " - fuse ") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(c.Root, "root/wedge.log"))
	return fmt.Errorf("container %d: no FUSE mount at %s: %s", c.VMID, dir, text)
}

// showConnections mounts the control file system of FUSE, as systemd does on a node.
func showConnections() error {
	const dir = "/sys/fs/fuse/connections"
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), " "+dir+" ") {
		return err
	}
	err = unix.Mount("none", dir, "fusectl", 0, "")
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return wrap(err, "mount fusectl")
}
