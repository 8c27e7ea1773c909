package host

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a look at the kernel's log. Its ring has 256 KiB to some MiB.
const (
	maxLog     = 16 << 20 // bytes
	maxLogTime = 2 * time.Second
)

// KernelLog returns the messages in the kernel's log that match, oldest first, as
// dmesg shows them. It never waits for a message.
//
// The form of a record is that of Documentation/ABI/testing/dev-kmsg: "6,339,5140900,-;text",
// with escaped newlines, and lines of properties that begin with a space.
func KernelLog(root string, match func(text string) bool) ([]string, error) {
	name := below(root, "dev/kmsg")
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd) // no os.File: the runtime would wait for the next message
	var raw []byte
	buf := make([]byte, 16<<10) // a record has up to 8 KiB
	for end := time.Now().Add(maxLogTime); len(raw) < maxLog && time.Now().Before(end); {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
			continue // EPIPE: messages were lost between two reads
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if n <= 0 {
			break
		}
		raw = append(raw, buf[:n]...)
	}
	var lines []string
	for record := range strings.Lines(string(raw)) {
		head, text, ok := strings.Cut(strings.TrimSuffix(record, "\n"), ";")
		fields := strings.Split(head, ",")
		if !ok || len(fields) < 3 || strings.HasPrefix(record, " ") {
			continue
		}
		text = strings.ReplaceAll(text, `\x0a`, " ")
		if µs, err := strconv.ParseUint(fields[2], 10, 63); err == nil && match(text) {
			lines = append(lines, fmt.Sprintf("[%d.%06d] %s", µs/1e6, µs%1e6, text))
		}
	}
	return lines, nil
}
