package driver

import (
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// installerFailed explains an exit status of the installer.
func installerFailed(c *lxc.Container, j Job, r lxc.Result) error {
	err := fmt.Errorf("nvidia-installer %s failed with exit status %d", j.Version(), r.Code)
	tail := LogTail(c, 6)
	for _, line := range tail {
		j.Log.Warnf("%s: %s", path.Base(InstallerLog), line)
	}
	if text := reason(string(r.Stderr), string(r.Stdout), strings.Join(tail, "\n")); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	switch {
	case r.Code == 135: // SIGBUS: a full disk under the installer's mapped copy
		return hint.Wrap(err, "the container's disk is full: make room or enlarge it (pct resize)")
	case r.Code == 137:
		return hint.Wrap(err, "it was killed, most likely for lack of memory: raise the container's memory to 512 MB or more")
	case r.Code == 143:
		return hint.Wrap(err, "something in the container ended it (SIGTERM): look for a driver package's pre-install script")
	case r.Code == 127 && strings.Contains(string(r.Stderr), loaderError):
		return hint.Wrap(err, "install the library that it names in the container")
	case r.Code == 126 || r.Code == 127:
		return hint.Wrap(err, "it could not be executed in the container: look for a noexec mount at "+stage+" or a container of another architecture")
	case len(tail) == 0:
		return hint.Wrap(err, "it has written no log: run it again with --log-level debug to see all that it says")
	}
	return hint.Wrap(err, "see "+InstallerLog+" in the container")
}

// loaderError is how glibc's loader begins when a program lacks a library; the
// exit status is 127.
const loaderError = "error while loading shared libraries"

// reason picks what names the cause out of what an installer wrote to stderr,
// else to stdout, else to its log: the first error that says more than that it
// has failed. Warnings, which stand behind the errors too, name no cause.
func reason(texts ...string) string {
	other := ""
	for _, text := range texts {
		for _, message := range messages(text) {
			rest, isError := strings.CutPrefix(message, "ERROR:")
			switch {
			case isError && !strings.HasPrefix(strings.TrimSpace(rest), "Installation has failed") && !noise(message):
				return say.Clean(strings.TrimSpace(rest), 300)
			case strings.Contains(message, loaderError):
				return say.Clean(message, 300)
			case !isError && !strings.HasPrefix(message, "WARNING:"):
				other = message
			}
		}
		if other != "" {
			return say.Clean(other, 300)
		}
	}
	return ""
}

// noise tells an error that comes with every installation where no libGL is: the
// installer's link to it leads nowhere, and ldconfig has taken it away.
func noise(message string) bool {
	return strings.HasPrefix(message, "ERROR: Unable to get file properties for '"+abiLink+"'")
}

// messages joins the lines of each message: one that is longer than a line goes
// on in lines that begin with spaces.
func messages(text string) []string {
	var found []string
	open := false
	for line := range strings.Lines(text) {
		words := strings.TrimSpace(line)
		switch {
		case words == "":
			open = false
		case open && strings.HasPrefix(line, "  "):
			found[len(found)-1] += " " + words
		default:
			found, open = append(found, words), true
		}
	}
	return found
}

// LogTail returns the last messages of the installer's log that say something,
// its errors alone where it has any, at most n.
func LogTail(c *lxc.Container, n int) []string {
	f, err := c.OpenFile(InstallerLog)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 64 << 10
	if f.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil
	}
	var errs, rest []string
	for _, message := range messages(string(text)) {
		message = say.Clean(message, 300)
		if noise(message) {
			continue
		}
		if strings.HasPrefix(message, "ERROR:") {
			errs = append(errs, message)
		}
		rest = append(rest, message)
	}
	if len(errs) > 0 {
		rest = errs
	}
	return rest[max(0, len(rest)-n):]
}
