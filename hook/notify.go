package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/replace"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// mailer takes a message for root. Proxmox VE forwards mail for root to its
// notification targets.
var mailer = "/usr/sbin/sendmail"

// mailLimit is for the mailer to take a message into its queue.
const mailLimit = 10 * time.Second

// A container has its part in the words of a reason, and can have itself started again
// and again by a reboot. So root gets no more than this many mails about one in a day.
const (
	maxMails    = 10
	mailsWithin = 24 * time.Hour
)

// mailed is what root was told about a container.
type mailed struct {
	Told string      // the reason, "" when all is well
	Sent []time.Time // the mails of the last day
}

// notify mails root once about each new reason why a container's runs fail or are
// refused, and once when that is over. What root has been told is kept in the state
// folder. A run that a person asked for is not mailed about.
func (r *run) notify(ctx context.Context) {
	t := &r.trace
	if !t.Settings.Notify.Mail || r.Asked || r.Terminal || r.handed || t.Ended != "" || t.Phase != PhasePostStart {
		return
	}
	file := filepath.Join(t.Settings.Paths.State, "mailed", strconv.Itoa(t.VMID)+".json")
	var was mailed
	if text, err := trust.ReadFile(file, 64<<10); err == nil {
		_ = json.Unmarshal(text, &was)
	}
	was.Sent = slices.DeleteFunc(was.Sent, func(at time.Time) bool {
		return t.At.Sub(at).Abs() > mailsWithin // the clock may have been ahead, so the future counts too
	})
	switch {
	case t.Plan.Held, t.Bad() && t.Reason == was.Told, !t.Bad() && was.Told == "":
		return
	case len(was.Sent) >= maxMails:
		r.Log.Infof("no mail is sent to root: it got %d mails about this container within a day", maxMails)
		return
	}
	if _, err := os.Stat(mailer); errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := sendMail(ctx, t.mail(was.Told)); err != nil {
		r.Log.Warnf("%v", err)
		return
	}
	now := mailed{Sent: append(was.Sent, t.At)}
	if t.Bad() {
		now.Told = t.Reason
	}
	if err := r.mailed(file, now); err != nil {
		r.Log.Warnf("remember the mail to root: %v", err)
	}
}

// mailed keeps what root was told.
func (r *run) mailed(file string, now mailed) error {
	dir, err := record.Below(r.trace.Settings.Paths.State, "mailed")
	if err != nil {
		return err
	}
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return replace.File(file, filepath.Join(dir, filepath.Base(file)+".new"), text, 0o600)
}

// mail is the message about a run. told is the reason that root was told before.
func (t *Trace) mail(told string) []byte {
	node, _ := os.Hostname()
	var b bytes.Buffer
	subject := "the NVIDIA driver works again"
	if t.Bad() {
		subject = "the NVIDIA driver is not in line with the host"
	}
	fmt.Fprintf(&b, "To: root\nSubject: %s: container %d on %s: %s\nAuto-Submitted: auto-generated\nContent-Type: text/plain; charset=utf-8\n\n",
		say.Program, t.VMID, say.Clean(node, 64), subject)
	if !t.Bad() {
		fmt.Fprintf(&b, "Container %d has driver %s.\n\nBefore: %s\n", t.VMID, t.Plan.Wanted, told)
		return b.Bytes()
	}
	fmt.Fprintf(&b, "%s\n", t.Reason)
	if t.Hint != "" {
		fmt.Fprintf(&b, "\nWhat to do: %s\n", strings.ReplaceAll(t.Hint, "VMID", strconv.Itoa(t.VMID)))
	}
	fmt.Fprintf(&b, "\n%s\n\nMore: pve-nvidia-hook doctor %d\nNo further mail comes about this reason. To turn mail off: mail = false below [notify] in the configuration.\n", t.Truth(), t.VMID)
	return b.Bytes()
}

// sendMail hands a message to the mailer.
func sendMail(ctx context.Context, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, mailLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, mailer, "-t", "-oi")
	cmd.Stdin = bytes.NewReader(message)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mail root: %w: %s", err, say.Clean(strings.TrimSpace(string(out)), 300))
	}
	return nil
}
