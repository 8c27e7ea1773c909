package lxc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sweepRounds = 20
	sweepLimit  = 1500 * time.Millisecond // a hook that is told to end has 5 s until SIGKILL; we want to take 2
	envMost     = 1 << 20                 // bytes of an environment that are looked at
	envWait     = 100 * time.Millisecond
	envStuck    = 3               // after so many that do not answer, no more are asked
	envTotal    = 5 * time.Second // nor after that time for all of them
)

// target says what a sweep looks for.
type target struct {
	marks   []string // K=V in the environment; K= stands for any value
	session int      // of the host's ids; 0: none
	attach  int      // the lxc-attach whose descendants count; 0: none
}

// KillStrays ends what earlier runs that were killed have left running in the
// container, and returns how many processes it ended. A daemon that an earlier
// run has left on purpose counts as well.
func (c *Container) KillStrays(ctx context.Context) (int, error) {
	n, err := c.sweep(ctx, target{marks: []string{marker + "="}}, nil)
	if err != nil {
		return n, fmt.Errorf("end strays in container %s: %w", c.name, err)
	}
	return n, nil
}

// end kills what a Run has started, lxc-attach included.
func (c *Container) end(t target, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), sweepLimit)
	defer cancel()
	// The group holds lxc-attach, which may be on its way in, and what stayed in
	// it: one signal, that no fork slips through. It cannot be another's group,
	// since lxc-attach, its leader, has not been waited for. But first lxc-attach
	// gets a moment to take the status of a command that was killed: a process
	// of the container that only the host's init can take it from would hold up
	// a stop of the container.
	group := func(found bool) {
		if found {
			select {
			case <-ended:
			case <-time.After(200 * time.Millisecond):
			}
		}
		unix.Kill(-t.attach, unix.SIGKILL)
	}
	_, err := c.sweep(ctx, t, group)
	group(false)
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return err
}

// sweep kills what t names until a look finds nothing. After the first round it
// calls first, if there is one, with whether something was found.
func (c *Container) sweep(ctx context.Context, t target, first func(found bool)) (int, error) {
	scan := scanner{c: c, found: map[int]uint64{}, sessions: map[int]bool{}}
	killed := map[int]uint64{}
	var left []process
	for round := range sweepRounds {
		if err := ctx.Err(); err != nil && round > 0 {
			break
		}
		var err error
		if left, err = scan.look(t); err != nil {
			return len(killed), err
		}
		if len(left) == 0 && (round > 0 || first == nil) {
			return len(killed), nil
		}
		if round == 0 && len(left) > 0 {
			// Stopped, they start nothing new while the rest is looked for.
			signalAll(left, unix.SIGSTOP)
			if left, err = scan.look(t); err != nil {
				return 0, err
			}
		}
		fds := signalAll(left, unix.SIGKILL)
		for _, p := range left {
			killed[p.pid] = p.start
		}
		awaitEnd(ctx, fds)
		if round == 0 && first != nil {
			first(len(left) > 0)
		}
	}
	if len(left) == 0 {
		return len(killed), nil
	}
	return len(killed), fmt.Errorf("%d processes do not end, the first is %d", len(left), left[0].pid)
}

// signalAll sends a signal by pidfds and returns them. A pid that was given to
// another process since it was looked at has another start time.
func signalAll(processes []process, sig unix.Signal) []int {
	var fds []int
	for _, p := range processes {
		fd, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			continue
		}
		if now, ok := readProcess(p.pid); !ok || now.start != p.start {
			unix.Close(fd)
			continue
		}
		unix.PidfdSendSignal(fd, sig, nil, 0)
		if sig != unix.SIGKILL {
			unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	return fds
}

// awaitEnd waits a moment for processes that were killed, and closes the pidfds.
func awaitEnd(ctx context.Context, fds []int) {
	limit := time.Now().Add(200 * time.Millisecond)
	for _, fd := range fds {
		left := time.Until(limit)
		if left > 0 && ctx.Err() == nil {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		}
		unix.Close(fd)
	}
}

// process is what /proc/PID/stat tells, in the host's ids.
type process struct {
	pid, parent, session int
	start                uint64 // in clock ticks since boot
	zombie               bool
	exiting              bool
}

func readProcess(pid int) (process, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, text)
}

func parseStat(pid int, text []byte) (process, bool) {
	// The name in parentheses may hold anything; the last ")" ends it.
	i := bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[i+1:])
	if i < 0 || len(fields) < 20 {
		return process{}, false
	}
	p := process{pid: pid, zombie: fields[0][0] == 'Z' || fields[0][0] == 'X'}
	p.parent, _ = strconv.Atoi(string(fields[1]))
	p.session, _ = strconv.Atoi(string(fields[3]))
	flags, _ := strconv.ParseUint(string(fields[6]), 10, 64)
	p.exiting = flags&0x4 != 0 // PF_EXITING of the kernel
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	p.start = start
	return p, err == nil
}

// scanner looks for processes of one container.
type scanner struct {
	c        *Container
	found    map[int]uint64  // pid to start time, over all looks
	sessions map[int]bool    // those of what was found, over all looks
	inner    map[string]bool // pid namespaces: is it the container's or below it
	stuck    int             // environments that did not answer
	spent    time.Duration   // on all of them
}

// look returns the living processes that t names, never the container's init
// and never one outside the container's pid namespace.
func (s *scanner) look(t target) ([]process, error) {
	all, err := s.processes()
	if err != nil {
		return nil, err
	}
	members := map[int]bool{}
	if t.session > 0 {
		s.sessions[t.session] = true
	}
	init, _ := readProcess(s.c.pid)
	add := func(p process) {
		members[p.pid] = true
		s.found[p.pid] = p.start
		// Run gives each command a session, so a session in which something of
		// it lives was begun by it too.
		if p.session > 0 && p.session != init.session {
			s.sessions[p.session] = true
		}
	}
	for _, p := range all {
		if t.attach > 0 && p.parent == t.attach || s.found[p.pid] == p.start || s.marked(p.pid, t.marks) {
			add(p)
		}
	}
	for grown := true; grown; { // what hangs on what was found, at any distance
		grown = false
		for _, p := range all {
			if !members[p.pid] && (members[p.parent] || s.sessions[p.session]) {
				add(p)
				grown = true
			}
		}
	}
	var living []process
	for _, p := range all {
		if members[p.pid] && !p.zombie {
			living = append(living, p)
		}
	}
	return living, nil
}

// processes lists those in the container's pid namespace or below, init excepted.
func (s *scanner) processes() ([]process, error) {
	if err := s.c.alive(); err != nil {
		return nil, nil // with init all the others were killed by the kernel
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	theirs, err := readlinkAt(s.c.proc, "ns/pid")
	if err != nil {
		return nil, nil
	}
	s.inner = map[string]bool{own: false, theirs: true}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == s.c.pid || !s.inside(name) {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// inside reports whether a process is in the container's pid namespace or in
// one below it, by asking the kernel for the parents of its namespace.
func (s *scanner) inside(pid string) bool {
	link, err := os.Readlink("/proc/" + pid + "/ns/pid")
	if err != nil {
		return false
	}
	if in, known := s.inner[link]; known {
		return in
	}
	fd, err := unix.Open("/proc/"+pid+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	in := false
	for range 32 { // the kernel nests pid namespaces 32 deep at most
		up, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		if err != nil {
			fd = -1
			break
		}
		unix.CloseOnExec(up)
		fd = up
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			break
		}
		if known, ok := s.inner["pid:["+strconv.FormatUint(st.Ino, 10)+"]"]; ok {
			in = known
			break
		}
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	s.inner[link] = in
	return in
}

// marked reports whether the environment of a process holds one of the marks.
// Reading it can hang when the process has put memory there that a FUSE file
// system of the container has to fill; so it gets little time, and all of them
// together too.
func (s *scanner) marked(pid int, marks []string) bool {
	if s.stuck >= envStuck || s.spent >= envTotal {
		return false
	}
	defer func(began time.Time) { s.spent += time.Since(began) }(time.Now())
	answer := make(chan []byte, 1)
	go func() {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			answer <- nil
			return
		}
		defer unix.Close(fd)
		env, _ := readAt(fd, "environ", envMost)
		answer <- env
	}()
	timer := time.NewTimer(envWait)
	defer timer.Stop()
	select {
	case env := <-answer:
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			for _, mark := range marks {
				if string(kv) == mark || mark[len(mark)-1] == '=' && bytes.HasPrefix(kv, []byte(mark)) {
					return true
				}
			}
		}
	case <-timer.C:
		s.stuck++
	}
	return false
}
