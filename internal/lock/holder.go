package lock

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// holder is the text in a lock file.
type holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	What  string    `json:"what"`
	Since time.Time `json:"since"`
}

const (
	maxHolder = 1 << 10 // bytes read of a lock file
	maxWord   = 100     // bytes shown of one of its words
)

// writeHolder writes who holds the lock into its file, which stays the one that is locked.
func writeHolder(held *flock.Flock, path, what string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	locked, err := held.Stat()
	if err != nil {
		return err
	}
	if opened, err := f.Stat(); err != nil || !os.SameFile(locked, opened) {
		return errors.Join(errors.New("the lock file was replaced"), err)
	}
	host, _ := os.Hostname()
	text, err := json.Marshal(holder{os.Getpid(), host, what, time.Now().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(text, '\n'), 0)
	return err
}

// Holder says in words who holds the lock of a file, as far as its text tells.
// The text is shown with everything unprintable taken out.
func Holder(path string) string {
	const unknown = "another process"
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return unknown
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return unknown
	}
	text, err := io.ReadAll(io.LimitReader(f, maxHolder))
	if err != nil {
		return unknown
	}
	var h holder
	if json.Unmarshal(text, &h) != nil || h.PID <= 0 {
		return unknown
	}
	host, _ := os.Hostname()
	if h.Host == host && errors.Is(syscall.Kill(h.PID, 0), syscall.ESRCH) {
		return unknown // the text of one that was killed; somebody else holds the lock now
	}
	return h.String()
}

func (h holder) String() string {
	s := fmt.Sprintf("pid %d on %s", h.PID, cmp.Or(say.Clean(h.Host, maxWord), "an unnamed node"))
	if h.What != "" {
		s += " for " + say.Clean(h.What, maxWord)
	}
	if !h.Since.IsZero() {
		layout := "15:04:05"
		if time.Since(h.Since) > 12*time.Hour {
			layout = "2006-01-02 15:04:05"
		}
		s += " since " + h.Since.Local().Format(layout)
	}
	return s
}
