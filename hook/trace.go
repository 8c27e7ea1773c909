package hook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Result is how a run ended, in one word.
type Result string

// The results of a run.
const (
	Skipped    Result = "skipped"    // nothing to do
	Installed  Result = "installed"  // something was done, and verified
	Refused    Result = "refused"    // nothing was tried
	Failed     Result = "failed"     // something was tried and is not true now
	Background Result = "background" // handed to a systemd unit that goes on
	Removed    Result = "removed"    // the driver was taken out, by hand
)

// Trace is all of one run: what it saw, what it decided and what came of it.
// It is kept on the host, and holds no secret.
type Trace struct {
	Program     string          `json:"program"` // version of this program
	At          time.Time       `json:"at"`
	VMID        int             `json:"vmid"`
	Phase       Phase           `json:"phase"`
	Settings    config.Settings `json:"settings,omitzero"` // without credentials
	Facts       Facts           `json:"facts"`
	Plan        Plan            `json:"plan"`
	Steps       []Outcome       `json:"steps,omitempty"`
	Result      Result          `json:"result"`
	Reason      string          `json:"reason,omitempty"` // of a refusal or failure
	Hint        string          `json:"hint,omitempty"`
	Seconds     float64         `json:"seconds"`
	Left        *Has            `json:"left,omitempty"`    // what is in the container after the run
	Unknown     bool            `json:"unknown,omitempty"` // nobody knows how far it came
	Ended       string          `json:"ended,omitempty"`   // why it ended early: EndedStopped and so on
	InputsAfter string          `json:"after,omitempty"`   // Facts.Inputs after the run; "": no step was done
}

// Why a run ended early.
const (
	EndedStopped     = "stopped"     // the container stopped
	EndedMissing     = "missing"     // there is no such container
	EndedNotRunning  = "not-running" // it does not run, and that is no matter of a start
	EndedInterrupted = "interrupted" // whoever called has ended it
)

// Has is what a container has by its own record, and of the shared driver by what is
// mounted in it. Differences between record and files are not in it.
type Has struct {
	Driver  version.Driver `json:"driver,omitempty"`
	Shared  bool           `json:"shared,omitempty"`  // Driver is shared by the node, not installed
	Toolkit string         `json:"toolkit,omitempty"` // release, such as 12.8
}

// Outcome is how one step went.
type Outcome struct {
	Step    Step    `json:"step"`
	Note    string  `json:"note,omitempty"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

const traceLimit = 4 << 20 // bytes

// ReadTrace reads a kept trace.
func ReadTrace(r io.Reader) (Trace, error) {
	var t Trace
	if err := json.NewDecoder(io.LimitReader(r, traceLimit)).Decode(&t); err != nil {
		return t, fmt.Errorf("read the trace: %w", err)
	}
	return t, nil
}

// hasOf reads from a record what the container has; nil is no record. mounted is the
// version of the shared driver in it.
func hasOf(in *record.Installed, mounted version.Driver) Has {
	if in == nil {
		return Has{}
	}
	has := Has{Driver: in.Version}
	if in.Delivered == record.ByShare && in.Version != "" {
		has.Driver, has.Shared = mounted, mounted != ""
	}
	if had, err := recordedToolkit(in); err == nil && had.OK {
		has.Toolkit = say.Clean(had.Release, 40)
	}
	return has
}

// secrets are the secret parts of the configured URLs: people show a trace to others
// when something does not work.
func secrets(s config.Settings) []string {
	var found []string
	for _, text := range append([]string{s.CUDA.RepoURL}, s.Driver.URLs...) {
		_, rest, _ := strings.Cut(text, "://")
		rest, query, _ := strings.Cut(rest, "?")
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			found = append(found, rest[:at])
			_, password, _ := strings.Cut(rest[:at], ":")
			found = append(found, password)
			if plain, err := url.PathUnescape(password); err == nil {
				found = append(found, plain)
			}
		}
		found = append(found, query)
	}
	return found
}

// maxText is how many bytes of a text in a trace are kept: a container may have
// had its part in each.
const maxText = 2000

// maxLines is how many lines of a text in a trace are kept.
const maxLines = 20

// cut takes secrets out of everything in the trace that an error may have brought
// in, and makes it harmless and short. The settings in it are cut already.
func (t *Trace) cut(secrets []string) {
	texts := []*string{&t.Reason, &t.Hint, &t.Plan.Why, &t.Plan.Hint, &t.Facts.Container.Toolkit}
	for i := range t.Steps {
		texts = append(texts, &t.Steps[i].Note, &t.Steps[i].Error)
	}
	if t.Facts.Failure != nil {
		texts = append(texts, &t.Facts.Failure.Reason, &t.Facts.Failure.Hint)
	}
	for _, text := range texts {
		for _, s := range secrets {
			if len(s) >= 8 { // a short one may be a word of ours; in a URL it is cut below
				*text = strings.ReplaceAll(*text, s, "***")
			}
		}
		lines := strings.Split(cutLogins(*text), "\n")
		for i := range lines {
			lines[i] = say.Clean(lines[i], maxText)
		}
		*text = strings.Join(lines[:min(len(lines), maxLines)], "\n")
	}
}

// cutLogins cuts the credentials of URLs that no setting holds, such as a proxy's.
func cutLogins(text string) string {
	before, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	end := strings.IndexAny(rest, "/?# \"'\n")
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		rest = "***" + rest[at:]
	}
	return before + "://" + cutLogins(rest)
}
