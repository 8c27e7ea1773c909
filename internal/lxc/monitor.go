package lxc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// getInitPid is LXC_CMD_GET_INIT_PID of LXC's src/lxc/commands.h. It has had
// this number since LXC 1.0; Proxmox VE's PVE/LXC/Command.pm relies on the
// numbers of its neighbours in the same way.
const getInitPid = 4

// monitorLimit is for an answer of the monitor process, which takes some 0.1 ms.
const monitorLimit = 2 * time.Second

// errImpostor means that somebody listens at a container's command socket who is
// not its monitor. LXC's own programs do not look at whose socket it is, so they
// must not be asked either. It is an ErrNotRunning too.
var errImpostor = fmt.Errorf("%w: its command socket is another's", ErrNotRunning)

// errNobody means that nobody listens there, or no longer.
var errNobody = fmt.Errorf("%w: nobody listens at its command socket", ErrNotRunning)

// errUnseen means that somebody may listen there, of whom nothing is known: it has
// not answered. Then LXC's own programs must not be asked either.
var errUnseen = errors.New("its command socket does not answer")

// unseen is an error from before it is known who has answered.
func unseen(err error) error {
	for _, gone := range []error{unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", errNobody, err)
		}
	}
	return fmt.Errorf("%w: %w", errUnseen, err)
}

// askMonitor asks the process that watches over a container (lxc-start, or
// "[lxc monitor]") for the init's pid, over the socket by which lxc-info asks
// too: without the start of a program, which is most of what a skip would cost.
// Another error than errNobody, errImpostor and errUnseen comes from a monitor that
// can be trusted, and says nothing about the container: ask lxc-info.
func askMonitor(lxcPath, name string) (pid int, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(monitorLimit.Nanoseconds())
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return 0, err
		}
	}
	// An abstract name; of longer paths LXC takes a hash instead.
	at := "@" + strings.TrimRight(lxcPath, "/") + "/" + name + "/command"
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: at})
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		return 0, fmt.Errorf("the name %q of the command socket is too long", at)
	case err != nil:
		return 0, unseen(err) // EAGAIN: it has too many callers
	}
	listener, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, unseen(err)
	}
	if listener.Uid != uint32(unix.Geteuid()) {
		return 0, fmt.Errorf("%w: it belongs to uid %d", errImpostor, listener.Uid)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return 0, unseen(err)
	}
	// struct lxc_cmd_req: the command, the length of data that follows, a
	// pointer that means nothing here. The monitor wants to see who asks.
	var request [16]byte
	binary.NativeEndian.PutUint32(request[:], getInitPid)
	me := unix.UnixCredentials(&unix.Ucred{Pid: int32(unix.Getpid()), Uid: uint32(unix.Geteuid()), Gid: uint32(unix.Getegid())})
	if err := unix.Sendmsg(fd, request[:], me, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, unseen(err)
	}
	// struct lxc_cmd_rsp: a result, the length of data that follows, and in
	// the place of a pointer to them the pid. The kernel says who has sent it.
	var answer [16]byte
	who := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for got := 0; got < len(answer); {
		n, noted, _, _, err := unix.Recvmsg(fd, answer[got:], who, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && got == 0:
			return 0, unseen(err)
		case err != nil:
			return 0, err
		case n == 0 && got == 0:
			return 0, unseen(unix.ECONNRESET)
		case n == 0:
			return 0, fmt.Errorf("the monitor of container %s hung up", name)
		}
		if err := checkMonitor(who[:noted]); err != nil {
			return 0, fmt.Errorf("%w: %w", errImpostor, err)
		}
		got += n
	}
	result := int32(binary.NativeEndian.Uint32(answer[0:]))
	follows := binary.NativeEndian.Uint32(answer[4:])
	data := binary.NativeEndian.Uint64(answer[8:])
	if result != 0 || follows != 0 || data <= 1 || data > 1<<22 {
		return 0, fmt.Errorf("the monitor of container %s answers %x", name, answer)
	}
	return int(data), nil
}

// checkMonitor makes sure of who has answered at a command socket, by what the
// kernel says of the sender. Any user of the host may take an abstract name that
// nobody has, and so may the root of a container that has the host's network, who
// is uid 0 as well if it is privileged: it lives in another pid namespace, though.
// The mount namespace does not tell, as the monitor may have one of its own
// (lxc.monitor.unshare), and SO_PEERCRED names a process that has ended when
// lxc-start went into the background.
func checkMonitor(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return errors.New("it is not known who has answered")
	}
	sender, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return err
	}
	if sender.Uid != uint32(unix.Geteuid()) || sender.Pid <= 0 {
		return fmt.Errorf("uid %d has answered", sender.Uid)
	}
	for _, kind := range []string{"pid", "user"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", sender.Pid, kind))
		if err != nil {
			return err
		}
		if theirs != ours {
			return fmt.Errorf("process %d has another %s namespace", sender.Pid, kind)
		}
	}
	return nil
}
