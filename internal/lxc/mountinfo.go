package lxc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mount is a line of a mountinfo.
type mount struct {
	id      string
	device  string // MAJOR:MINOR
	point   string // where, as the kernel writes it: a blank is \040
	options string
	kind    string // of file system
	source  string
}

// eachMount reads the mounts that the container's init sees, by the descriptor of
// its folder in the host's /proc.
func (c *Container) eachMount(yield func(mount) bool) error {
	return readMounts(c.proc, "mountinfo", yield)
}

// hostMounts reads those of our own mount namespace.
func hostMounts(yield func(mount) bool) error {
	return readMounts(unix.AT_FDCWD, "/proc/self/mountinfo", yield)
}

func readMounts(dir int, name string, yield func(mount) bool) error {
	// Not by os.Open, which would register it with the runtime's poller.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return scanMounts(f, yield)
}

// scanMounts reads a mountinfo: "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS ... - TYPE
// SOURCE OPTIONS" (proc_pid_mountinfo(5)), until yield returns false. A container can
// make the list and each line as long as it likes, so the bytes of both and the time
// are limited. The package moby/sys/mountinfo gives up the whole list at a line of
// more than 64 KiB or of an odd form, so a container could hide its mounts from it.
func scanMounts(r io.Reader, yield func(mount) bool) error {
	lines := bufio.NewReaderSize(io.LimitReader(r, maxMounts), 8<<10)
	var line []byte
	for began := time.Now(); ; {
		if time.Since(began) > mountsTime {
			return fmt.Errorf("the list of mounts takes longer than %s", mountsTime)
		}
		part, err := lines.ReadSlice('\n')
		line = append(line[:0], part...)
		for errors.Is(err, bufio.ErrBufferFull) {
			if part, err = lines.ReadSlice('\n'); len(line) < maxLine {
				line = append(line, part...)
			}
		}
		if m, ok := parseMount(strings.TrimSuffix(string(line), "\n")); ok && !yield(m) {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

const (
	maxLine    = 256 << 10 // bytes of a line; the paths take 32 KiB at most
	maxMounts  = 64 << 20  // bytes of the list
	mountsTime = time.Second
)

func parseMount(line string) (mount, bool) {
	front, back, ok := strings.Cut(line, " - ")
	fields, kind := strings.Split(front, " "), strings.Split(back, " ")
	if !ok || len(fields) < 6 || len(kind) < 2 {
		return mount{}, false
	}
	return mount{fields[0], fields[2], fields[4], fields[5], kind[0], kind[1]}, true
}

var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
