package say

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// journalSocket takes entries with fields, one to a datagram:
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL
var journalSocket = "/run/systemd/journal/socket"

// ToJournal sends every line to systemd's journal too, with fields to search by:
// VMID, STEP, RESULT, DRIVER_VERSION and what else a line was given. Where the
// output is the journal already, as in a unit, the entries with fields stand in
// for the lines. A journal that is absent or busy neither fails nor delays a run.
func (l Log) ToJournal() {
	j := &toJournal{}
	if ours, _ := journal.StderrIsJournalStream(); ours && l.Logger.Out == os.Stderr {
		if _, text := l.Logger.Formatter.(lines); !text {
			return // JSON was asked for and has the fields
		}
		j.instead = l.Logger.Out
	}
	var err error
	if j.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return
	}
	if j.instead != nil {
		l.Logger.SetOutput(io.Discard)
	}
	l.Logger.AddHook(j)
}

// toJournal is open until the process ends.
type toJournal struct {
	fd      int
	instead io.Writer // takes the line when the journal does not; nil: it has it anyway
}

// Levels implements logrus.Hook.
func (*toJournal) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook. Package journal's own Send waits as long as it
// takes when the journal's queue is full; a container's start must not.
func (j *toJournal) Fire(e *logrus.Entry) error {
	err := unix.Sendto(j.fd, entry(e), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: journalSocket})
	if err == nil || j.instead == nil {
		return nil
	}
	line, err := e.Logger.Formatter.Format(e)
	if err == nil {
		_, err = j.instead.Write(line)
	}
	return err
}

// entry writes "NAME=value" lines. Values are cut and cleaned of newlines, so the
// form for binary values is not needed, nor is a datagram ever too long.
func entry(e *logrus.Entry) []byte {
	message := e.Message
	if e.Data["hint"] == true {
		message = "hint: " + message
	}
	if vmid, ok := e.Data["vmid"]; ok { // journalctl shows the text alone
		message = fmt.Sprintf("container %v: %s", vmid, message)
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s=%s\n", name, Clean(value, lineLimit)) }
	line("MESSAGE", message)
	line("PRIORITY", strconv.Itoa(int(priority(e.Level))))
	line("SYSLOG_IDENTIFIER", Program)
	for key, value := range e.Data {
		if name, text := field(key), fmt.Sprint(value); name != "" && text != "" {
			line(name, text)
		}
	}
	return []byte(b.String())
}

// field is the journal's name of a log field, or "" for one that is not for it:
// names have capitals, digits and _, and do not start with _ or a digit.
func field(key string) string {
	switch key {
	case "hint":
		return "" // it is in the message
	case "version":
		return "DRIVER_VERSION"
	}
	name := strings.ToUpper(key)
	for i, c := range []byte(name) {
		if !(c >= 'A' && c <= 'Z' || i > 0 && (c == '_' || c >= '0' && c <= '9')) {
			return ""
		}
	}
	return name
}

func priority(l logrus.Level) journal.Priority {
	switch {
	case l <= logrus.FatalLevel:
		return journal.PriCrit
	case l == logrus.ErrorLevel:
		return journal.PriErr
	case l == logrus.WarnLevel:
		return journal.PriWarning
	case l == logrus.InfoLevel:
		return journal.PriInfo
	}
	return journal.PriDebug
}
