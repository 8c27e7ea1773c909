package lxc

import (
	"encoding/binary"
	"errors"
	"fmt"
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

// askMonitor asks the process that watches over a container (lxc-start, or
// "[lxc monitor]") for the init's pid, over the socket by which lxc-info asks
// too: without the start of a program, which is most of what a skip would cost.
// An error says nothing about the container: ask lxc-info.
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
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: at}); err != nil {
		return 0, err
	}
	// Any user may take a name that nobody has.
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if peer.Uid != uint32(unix.Geteuid()) {
		return 0, fmt.Errorf("the socket of container %s belongs to uid %d", name, peer.Uid)
	}
	// struct lxc_cmd_req: the command, the length of data that follows, a
	// pointer that means nothing here. The monitor wants to see who asks.
	var request [16]byte
	binary.NativeEndian.PutUint32(request[:], getInitPid)
	me := unix.UnixCredentials(&unix.Ucred{Pid: int32(unix.Getpid()), Uid: uint32(unix.Geteuid()), Gid: uint32(unix.Getegid())})
	if err := unix.Sendmsg(fd, request[:], me, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, err
	}
	// struct lxc_cmd_rsp: a result, the length of data that follows, and in
	// the place of a pointer to them the pid.
	var answer [16]byte
	for got := 0; got < len(answer); {
		n, err := unix.Read(fd, answer[got:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, fmt.Errorf("the monitor of container %s hung up", name)
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
