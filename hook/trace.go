package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
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
	Program  string          `json:"program"` // version of this program
	At       time.Time       `json:"at"`
	VMID     int             `json:"vmid"`
	Phase    Phase           `json:"phase"`
	Settings config.Settings `json:"settings"` // without credentials
	Facts    Facts           `json:"facts"`
	Plan     Plan            `json:"plan"`
	Steps    []Outcome       `json:"steps,omitempty"`
	Result   Result          `json:"result"`
	Reason   string          `json:"reason,omitempty"` // of a refusal or failure
	Hint     string          `json:"hint,omitempty"`
	Seconds  float64         `json:"seconds"`
	Left     *Has            `json:"left,omitempty"`    // what is in the container after the run
	Unknown  bool            `json:"unknown,omitempty"` // nobody knows how far it came
}

// Has is what a container has by its own record. Differences between record and
// files are not in it.
type Has struct {
	Driver  version.Driver `json:"driver,omitempty"`
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

// digest names the inputs on which a failure depends: as long as it stays the
// same, trying again brings the same.
func (r *run) digest(f Facts) string {
	s := r.settings.Redacted()
	data, err := json.Marshal(struct {
		Program   string
		Driver    any
		Install   any
		CUDA      any
		Cache     string
		Host      HostFacts
		Container ContainerFacts
		Around    []string
	}{version.Program, s.Driver, s.Install, s.CUDA, s.Cache.Dir, f.Host, f.Container, r.around(f)})
	if err != nil {
		return "" // cannot be: all of it is plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// around is what people change to mend a failure: Proxmox's configuration of
// the container (devices, disk, memory), a run file put into the cache by hand,
// and the device nodes in the container.
func (r *run) around(f Facts) []string {
	var found []string
	stat := func(name string) {
		if info, err := os.Stat(name); err == nil {
			found = append(found, fmt.Sprint(name, info.Size(), info.ModTime().UnixNano()))
		}
	}
	stat(r.Host.Path(fmt.Sprintf("etc/pve/lxc/%d.conf", r.trace.VMID)))
	if wanted, refused := wantedVersion(r.settings, f.Host); refused == nil {
		stat(filepath.Join(r.settings.Cache.Dir, cache.FileName(wanted, f.Host.Arch)))
	}
	names, _ := r.container.ReadDir("/dev", 10000) // a container without /dev has no GPU either
	for _, name := range names {
		if strings.HasPrefix(name, "nvidia") {
			found = append(found, name)
		}
	}
	return found
}

// hasOf reads from a record what the container has; nil is no record.
func hasOf(in *record.Installed) Has {
	if in == nil {
		return Has{}
	}
	had, err := recordedToolkit(in)
	if err != nil || !had.OK {
		return Has{Driver: in.Version}
	}
	return Has{in.Version, had.Release}
}

// secrets are the parts of the configured URLs that nobody may read: a trace is
// shown to others when something does not work.
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

// textMost is how many bytes of a text in a trace are kept: a container may have
// had its part in each.
const textMost = 2000

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
		*text = say.Clean(cutLogins(*text), textMost)
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
