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

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// wedge is a FUSE server that reads every request and answers none but the
// first, INIT (number 26): protocol 7.31, 64 bytes behind a header of 16. Asked
// for it, it also answers what comes before the first read of a file, which it
// pretends to have under any name: LOOKUP 1, GETATTR 3, OPEN 14, STATFS 17 and
// GETXATTR 22, ACCESS 34, IOCTL 39 (in linux/fuse.h). Or it answers each READ 15 with one byte
// after a while.
const wedge = `
my ($dir, $opens, $name, $type) = (shift, shift, "wedge", "fuse");
sysopen(my $f, "/dev/fuse", 2) or die "open: $!";
my $o = "fd=" . fileno($f) . ",rootmode=40000,user_id=0,group_id=0,allow_other";
syscall(165, $name, $dir, $type, 0, $o) == 0 or die "mount: $!";
sub attr { my ($ino) = @_; pack("Q6 L10", $ino, 4096, 8, 0, 0, 0, 0, 0, 0, $ino == 1 ? 040755 : 0100755, 1, 0, 0, 0, 4096, 0) }
sub answer { my ($id, $error, $body) = @_; syswrite($f, pack("L l Q", 16 + length $body, $error, $id) . $body) }
while (sysread($f, my $b, 200000)) {
	my ($len, $op, $id, $node) = unpack("L L Q Q", $b);
	if ($op == 26) { answer($id, 0, pack("L L L L S S L L x32", 7, 31, 4096, 0, 8, 6, 4096, 1)) }
	next if !$opens;
	if ($op == 1 && $opens ne "root") { answer($id, 0, pack("Q4 L2", 2, 0, 60, 60, 0, 0) . attr(2)) }
	if ($op == 3) { answer($id, 0, pack("Q L L", 60, 0, 0) . attr($node)) }
	if ($op == 14) { answer($id, 0, pack("Q L L", 1, $opens eq "drip" ? 1 : 0, 0)) }
	if ($op == 15 && $opens eq "drip") { select(undef, undef, undef, 0.1); answer($id, 0, "x") }
	if ($op == 17) { answer($id, 0, "\0" x 80) }
	if ($op == 22 || $op == 34 || $op == 39) { answer($id, -38, "") }
}`

// servedInit is an init that moves into a file system which its child serves.
const servedInit = `#!/usr/bin/perl
mkdir "/srv/root";
system("test -e /dev/fuse || mknod /dev/fuse c 10 229");
exec("perl", "/root/wedge", "/srv/root", "root") if !fork;
for (1 .. 500) {
	open(my $f, "<", "/proc/self/mountinfo");
	last if grep { m, /srv/root , } <$f>;
	select(undef, undef, undef, 0.01);
}
chroot("/srv/root") or die "chroot: $!";
chdir("/");
sleep(1000) while 1;
`

// stuckInit is an init that executes a program and, on the way, closes a file on a
// FUSE file system that does not answer. The kernel holds locks of its /proc/PID then.
const stuckInit = `#!/usr/bin/perl
mkdir "/srv/wedge";
system("test -e /dev/fuse || mknod /dev/fuse c 10 229");
exec("perl", "/root/wedge", "/srv/wedge", "1") if !fork;
for (1 .. 500) {
	open(my $f, "<", "/proc/self/mountinfo");
	last if grep { m, /srv/wedge , } <$f>;
	select(undef, undef, undef, 0.01);
}
sysopen(F, "/srv/wedge/x", 0) or die "open: $!";
exec "sleep", "1000";
`

// hold lists a folder, or reads a file directly (O_DIRECT), into memory whose pages
// nobody fills (userfaultfd 323, mmap 9, ioctl 16, getdents64 217, read 0), and so keeps
// its lock for ever. On most file systems others may still look names up in a folder
// then, until somebody wants to change it.
const hold = `
my ($dir) = @ARGV;
my $mem = syscall(9, 0, 4096, 3, 0x22, -1, 0);
my $faults = syscall(323, 0);
my $api = pack("Q3", 0xaa, 0, 0);
syscall(16, $faults, 0xc018aa3f, $api) == 0 or die "api: $!";
my $range = pack("Q4", $mem, 4096, 1, 0);
syscall(16, $faults, 0xc020aa00, $range) == 0 or die "register: $!";
if (-f $dir) {
	sysopen(my $f, $dir, 0x4000) or die "open: $!";
	syscall(0, fileno($f), $mem, 4096);
	exit;
}
exec("sh", "-c", 'sleep 0.3; exec mkdir "$0/of-hold"', $dir) if !fork;
opendir(my $d, $dir) or die "open: $!";
syscall(217, fileno($d), $mem, 4096);
`

// Hold has a process of a privileged container hold the kernel's lock of a folder or a
// file until the container stops: who looks for a new name in the folder waits, and who
// links or removes the file.
func (c *Container) Hold(ctx context.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(c.Root, "root/hold"), []byte(hold), 0o644); err != nil {
		return err
	}
	out, err := c.Attach(ctx, "sh", "-c", "setsid perl /root/hold "+dir+" </dev/null >/root/hold.log 2>&1 & sleep 0.6; cat /root/hold.log")
	if err == nil && out != "" {
		err = errors.New("it says")
	}
	if err != nil {
		return fmt.Errorf("container %d: hold %s: %w: %s", c.VMID, dir, err, out)
	}
	return nil
}

// Wedge mounts at dir in a privileged container a FUSE file system that never
// answers. It lasts until the container stops or the connection is aborted.
func (c *Container) Wedge(ctx context.Context, dir string) error { return c.wedge(ctx, dir, "") }

// WedgeReads does so with one whose files, of any name, can be opened; only
// reading them is never answered.
func (c *Container) WedgeReads(ctx context.Context, dir string) error { return c.wedge(ctx, dir, "1") }

// Drip does so with one whose files are read one byte at a time, ten in a second.
func (c *Container) Drip(ctx context.Context, dir string) error { return c.wedge(ctx, dir, "drip") }

// WedgeBehindOverlay does as WedgeReads, with an overlay between, so that no list
// of mounts shows the FUSE file system.
func (c *Container) WedgeBehindOverlay(ctx context.Context, dir string) error {
	if err := c.wedge(ctx, "/srv/behind", "1"); err != nil {
		return err
	}
	out, err := c.Attach(ctx, "sh", "-c", "mkdir -p /srv/empty "+dir+" && mount -t overlay x -o lowerdir=/srv/behind:/srv/empty "+dir+" && umount -l /srv/behind")
	if err != nil {
		return fmt.Errorf("container %d: mount an overlay over FUSE: %w: %s", c.VMID, err, out)
	}
	return nil
}

// ServeRoot starts a privileged container without systemd again with an init whose
// root is such a file system, in which no name is ever answered for.
func (c *Container) ServeRoot(ctx context.Context) error {
	pid, err := c.startWith(ctx, servedInit)
	if err != nil {
		return err
	}
	for range 500 {
		root, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/root")
		if err == nil && strings.HasSuffix(root, "/srv/root") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("container %d: its init has not moved", c.VMID)
}

// StickInit starts a privileged container without systemd again with an init that
// hangs in execve until the function that it returns is called.
func (c *Container) StickInit(ctx context.Context) (release func(), err error) {
	pid, err := c.startWith(ctx, stuckInit)
	if err != nil {
		return nil, err
	}
	for range 500 {
		mounts, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/srv/wedge" {
				_, minor, _ := strings.Cut(fields[2], ":")
				time.Sleep(500 * time.Millisecond) // it sees the mount after 10 ms at most
				return func() { _ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0) }, nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("container %d: its init has mounted nothing", c.VMID)
}

// startWith starts the container again with another init.
func (c *Container) startWith(ctx context.Context, init string) (pid int, err error) {
	if err := errors.Join(showConnections(), c.Stop(),
		os.WriteFile(filepath.Join(c.Root, "root/wedge"), []byte(wedge), 0o644),
		os.WriteFile(filepath.Join(c.Root, initPath), []byte(init), 0o755)); err != nil {
		return 0, err
	}
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	return c.Pid(ctx)
}

func (c *Container) wedge(ctx context.Context, dir, opens string) error {
	if err := showConnections(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Root, "root/wedge"), []byte(wedge), 0o644); err != nil {
		return err
	}
	out, err := c.Attach(ctx, "sh", "-c", "test -e /dev/fuse || mknod /dev/fuse c 10 229; mkdir -p "+dir+"; setsid perl /root/wedge "+dir+" '"+opens+"' </dev/null >/root/wedge.log 2>&1 &")
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

// fusectl is the magic number of that file system (FUSE_CTL_SUPER_MAGIC).
const fusectl = 0x65735543

// showConnections mounts the control file system of FUSE, as systemd does on a
// node: without it nothing but the end of its server ends a FUSE file system that
// does not answer, and the tests are about ending it from outside. In a container
// something else may be mounted there, such as a bind mount of an empty folder.
func showConnections() error {
	const dir = "/sys/fs/fuse/connections"
	if isType(dir, fusectl) {
		return nil
	}
	err := unix.Mount("none", dir, "fusectl", 0, "")
	if isType(dir, fusectl) {
		return nil // another process may have been quicker
	}
	return hint.Wrap(fmt.Errorf("%s is not of type fusectl and cannot be made so (%v): a FUSE file system that does not answer could not be ended", dir, err),
		"mount -t fusectl none "+dir+" on the host, then start the container again")
}

// isType asks the kernel for the type of the file system at a path.
func isType(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == magic
}
