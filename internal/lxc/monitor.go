package lxc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What LXC's monitor can be asked (src/lxc/commands.h). The numbers do not change:
// Proxmox VE's PVE/LXC/Command.pm relies on them as well.
const (
	getInitPid     = 4  // LXC_CMD_GET_INIT_PID
	getCgroup      = 6  // LXC_CMD_GET_CGROUP: the container's own cgroup, since LXC 1.0
	getLimitCgroup = 19 // LXC_CMD_GET_LIMIT_CGROUP: the one with its limits, since LXC 4.0
)

// monitorLimit is for an answer of the monitor process, which takes some 0.1 ms.
const monitorLimit = 2 * time.Second

// maxCgroup is the longest path of a cgroup in bytes.
const maxCgroup = unix.PathMax

// errImpostor means that the process which listens at a container's command socket
// is not its monitor. LXC's own programs do not check that, so they must not be
// used then either. It is an ErrNotRunning too.
var errImpostor = fmt.Errorf("%w: its command socket belongs to another process", ErrNotRunning)

// errNobody means that no process listens there, or not any more.
var errNobody = fmt.Errorf("%w: nobody listens at its command socket", ErrNotRunning)

// errUnseen means that nothing is known about the listener, since it has not
// answered. LXC's own programs must not be used then either.
var errUnseen = errors.New("its command socket does not answer")

// errHungUp means that the connection was closed without an answer. LXC does so
// when it has none.
var errHungUp = errors.New("no answer")

// unseen is an error that comes before the sender of an answer is known.
func unseen(err error) error {
	for _, gone := range []error{unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, errHungUp} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", errNobody, err)
		}
	}
	return fmt.Errorf("%w: %w", errUnseen, err)
}

// askInitPid asks for the process id of the container's init. That costs no start
// of a program. A container that is just starting or ending has no process.
func askInitPid(lxcPath, name string) (int, error) {
	pid, text, err := askMonitor(lxcPath, name, getInitPid, "")
	if err != nil {
		return 0, err
	}
	if text != "" || pid <= 1 || pid > 1<<22 {
		return 0, fmt.Errorf("%w: its monitor answers with process id %d", ErrNotRunning, int64(pid))
	}
	return int(pid), nil
}

// askCgroup asks for one of the container's cgroups in the hierarchy of a
// controller. The path is relative to the root of that hierarchy.
func askCgroup(lxcPath, name string, question uint32, controller string) (string, error) {
	_, path, err := askMonitor(lxcPath, name, question, controller)
	if err != nil {
		return "", err
	}
	// With cgroup v2 alone LXC leaves the first slash out.
	path = strings.TrimPrefix(path, "/")
	if !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." {
		return "", fmt.Errorf("the monitor answers with the path %q", path)
	}
	return path, nil
}

// askMonitor asks the process that watches over a container (lxc-start, or
// "[lxc monitor]") over the socket that LXC's own programs use too. The answer is a number
// or a text.
func askMonitor(lxcPath, name string, question uint32, about string) (number uint64, text string, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	defer unix.Close(fd)
	if err := connectMonitor(fd, lxcPath, name); err != nil {
		return 0, "", err
	}
	// struct lxc_cmd_req: the command, the length of the data that follows, and a
	// pointer without meaning. The monitor wants to see who asks.
	request := binary.NativeEndian.AppendUint32(nil, question)
	if about != "" {
		about += "\x00"
	}
	request = binary.NativeEndian.AppendUint32(request, uint32(len(about)))
	request = append(binary.NativeEndian.AppendUint64(request, 0), about...)
	me := unix.UnixCredentials(&unix.Ucred{Pid: int32(unix.Getpid()), Uid: uint32(unix.Geteuid()), Gid: uint32(unix.Getegid())})
	if err := unix.Sendmsg(fd, request, me, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, "", unseen(err)
	}
	// struct lxc_cmd_rsp: a result, the length of the data that follows, and a
	// number, which is a pointer without meaning when data follows.
	answer := make([]byte, 16)
	if seen, err := receive(fd, answer); err != nil && !seen {
		return 0, "", unseen(err)
	} else if err != nil {
		return 0, "", err
	}
	result, follows := int32(binary.NativeEndian.Uint32(answer)), binary.NativeEndian.Uint32(answer[4:])
	if result != 0 || follows > maxCgroup {
		return 0, "", fmt.Errorf("the monitor of container %s answers %x", name, answer)
	}
	data := make([]byte, follows)
	if _, err := receive(fd, data); err != nil {
		return 0, "", err
	}
	data, _, _ = bytes.Cut(data, []byte{0})
	return binary.NativeEndian.Uint64(answer[8:]), string(data), nil
}

// connectMonitor connects to a container's command socket.
func connectMonitor(fd int, lxcPath, name string) error {
	limit := unix.NsecToTimeval(monitorLimit.Nanoseconds())
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	// An abstract name. LXC takes a hash instead of a longer path.
	at := "@" + strings.TrimRight(lxcPath, "/") + "/" + name + "/command"
	var err error = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: at})
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the name %q of the command socket is too long", at)
	case err != nil:
		return unseen(err) // EAGAIN: it has too many callers
	}
	listener, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return unseen(err)
	}
	if listener.Uid != uint32(unix.Geteuid()) {
		return fmt.Errorf("%w: it belongs to uid %d", errImpostor, listener.Uid)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return unseen(err)
	}
	return nil
}

// receive fills data with what the monitor sends. It checks the sender of each
// part; seen tells whether a part has come.
func receive(fd int, data []byte) (seen bool, err error) {
	who := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for got := 0; got < len(data); {
		n, noted, _, _, err := unix.Recvmsg(fd, data[got:], who, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return got > 0, err
		case n == 0:
			return got > 0, errHungUp
		}
		if err := checkMonitor(who[:noted]); err != nil {
			return true, fmt.Errorf("%w: %w", errImpostor, err)
		}
		got += n
	}
	return true, nil
}

// checkMonitor checks who has sent an answer, by what the kernel says of the sender.
// Each user of the host can take an abstract name that is free, and so can root of a
// container with the host's network. Root of a privileged container has uid 0 too,
// but it lives in another pid namespace. The mount namespace does not tell, because
// the monitor may have one of its own (lxc.monitor.unshare). SO_PEERCRED names a
// process that has ended when lxc-start went into the background.
func checkMonitor(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return errors.New("it does not say who has answered")
	}
	sender, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return err
	}
	if sender.Uid != uint32(unix.Geteuid()) || sender.Pid <= 0 {
		return fmt.Errorf("uid %d has answered", sender.Uid)
	}
	pids, err := namespacePids(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/status", sender.Pid))
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("process %d lives in another pid namespace", sender.Pid)
	}
	return nil
}

// namespacePids reads from a process's status its ids in each pid namespace, ours
// first. Unlike the links in /proc/PID/ns, status can be read while the process
// waits in execve(2), which a FUSE file system can make last for ever.
func namespacePids(dir int, name string) ([]string, error) {
	status, err := readAt(dir, name, 64<<10)
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line), nil
}
