package worker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// relays pass on what the worker prints. A reader of a pipe or socket waits until
// nobody has its other end open. So a worker, which may be left behind, must not have
// the pipes of this process.
type relays struct {
	ours    []*os.File // the ends of the worker, for as long as it has not been started
	read    []*os.File
	copies  sync.WaitGroup
	writing atomic.Int32 // that are not waiting for the worker
}

// begin returns what stands for stdout and stderr in the worker.
func (r *relays) begin(to io.Writer) (out, errOut *os.File, err error) {
	if to != nil {
		out, err = r.start(func(read *os.File) { r.copyLines(to, read) })
		return out, out, err
	}
	// The journal does not wait for the end of a socket, so the worker may have it.
	toJournal, _ := journal.StdoutIsJournalStream()
	if out, err = r.relay(os.Stdout, toJournal); err != nil {
		return nil, nil, err
	}
	if same(os.Stdout, os.Stderr) {
		return out, out, nil // two relays could change the order of lines
	}
	toJournal, _ = journal.StderrIsJournalStream()
	errOut, err = r.relay(os.Stderr, toJournal)
	return out, errOut, err
}

func (r *relays) relay(to *os.File, journal bool) (*os.File, error) {
	info, err := to.Stat()
	if err != nil || journal || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return to, nil // a terminal or a file; or nothing at all
	}
	return r.start(func(read *os.File) { r.copy(to, read) })
}

func (r *relays) start(pass func(read *os.File)) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.ours, r.read = append(r.ours, write), append(r.read, read)
	r.copies.Go(func() {
		defer read.Close() // when nobody listens any more, the worker is told so
		pass(read)
	})
	return write, nil
}

func (r *relays) copy(to io.Writer, read *os.File) {
	buf := make([]byte, 32<<10)
	for {
		n, err := read.Read(buf)
		if err != nil || r.write(to, buf[:n]) != nil {
			return
		}
	}
}

// copyLines passes on whole lines, because other workers write to the same place.
func (r *relays) copyLines(to io.Writer, read *os.File) {
	lines := bufio.NewReaderSize(read, 32<<10)
	for {
		line, err := lines.ReadSlice('\n') // a longer one comes in parts
		if n := len(line); n > 0 && line[n-1] != '\n' {
			line = append(slices.Clone(line), '\n')
		}
		if len(line) > 0 && r.write(to, line) != nil || err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (r *relays) write(to io.Writer, b []byte) error {
	r.writing.Add(1)
	defer r.writing.Add(-1)
	_, err := to.Write(b)
	return err
}

func same(a, b *os.File) bool {
	one, err := a.Stat()
	two, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(one, two)
}

// started gives up the worker's ends.
func (r *relays) started() {
	for _, f := range r.ours {
		f.Close()
	}
	r.ours = nil
}

// drain waits until all is passed on, to a slow reader too, until ctx ends. The worker
// itself has closed its ends. A program that it has started may have not: drain waits
// for that one no longer than endWait.
func (r *relays) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() { r.copies.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			r.rest()
			return
		case <-time.After(endWait):
		}
		if !r.pending() {
			return
		}
	}
}

// rest is drain for endSoon at most: the worker may never close its ends.
func (r *relays) rest() {
	idle := 0 // between reading and writing, nothing seems to be pending
	for range endSoon / (10 * time.Millisecond) {
		time.Sleep(10 * time.Millisecond)
		if r.pending() {
			idle = 0
		} else if idle++; idle == 2 {
			return
		}
	}
}

// pending reports whether something is yet to be passed on.
func (r *relays) pending() bool {
	if r.writing.Load() > 0 {
		return true
	}
	for _, f := range r.read {
		unread := 0
		conn, err := f.SyscallConn()
		if err == nil {
			_ = conn.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		}
		if unread > 0 {
			return true
		}
	}
	return false
}

func (r *relays) close() {
	for _, f := range append(r.ours, r.read...) {
		f.Close()
	}
}
