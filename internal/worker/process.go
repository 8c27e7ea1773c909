package worker

import (
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a worker that was started. It is started and waited for without
// package os, which would first try out on a child of its own whether the kernel
// has pidfds: that takes as long as the rest.
type process struct {
	pid   int
	fd    *os.File                // its pidfd
	ended chan syscall.WaitStatus // gets how it ended
}

// start runs this program again.
func start(args []string, stdin, stdout, stderr, report *os.File) (*process, error) {
	if args == nil {
		args = os.Args[1:]
	}
	// A worker may be left behind, so it must not hold other open files of the caller.
	_ = unix.CloseRange(reportFd, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	const self = "/proc/self/exe" // also where an upgrade has just replaced the file
	program := self
	if path, err := os.Executable(); err == nil && sameFile(path, self) {
		program = path // the process is named after it
	}
	// What a worker does is done by system calls and other programs. With one
	// processor the start of Go's runtime takes half the time.
	env := append(os.Environ(), env+"=1", "GOMAXPROCS=1")
	fd := -1
	pid, err := syscall.ForkExec(program, append([]string{os.Args[0]}, args...), &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd(), report.Fd()},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, PidFD: &fd},
	})
	if err != nil {
		return nil, err
	}
	_ = unix.SetNonblock(fd, true) // so that waiting takes no thread
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "worker"), ended: make(chan syscall.WaitStatus, 1)}
	go p.wait()
	return p, nil
}

// wait gives ended the status of the process when it has ended.
func (p *process) wait() {
	defer p.fd.Close()
	var how syscall.WaitStatus
	over := func(uintptr) bool {
		pid, err := syscall.Wait4(p.pid, &how, syscall.WNOHANG, nil)
		return pid == p.pid || err != nil && err != syscall.EINTR
	}
	// A pidfd can be read from when its process has ended.
	if conn, err := p.fd.SyscallConn(); err != nil || conn.Read(over) != nil {
		_, _ = syscall.Wait4(p.pid, &how, 0, nil)
	}
	p.ended <- how
}

// signal sends a signal to the worker as long as it is there.
func (p *process) signal(s unix.Signal) {
	if conn, err := p.fd.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	}
}

// ending says in words how a process ended.
func ending(how syscall.WaitStatus) string {
	if how.Signaled() {
		return "signal: " + how.Signal().String()
	}
	return fmt.Sprintf("exit status %d", how.ExitStatus())
}
