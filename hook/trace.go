package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
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
func digest(program string, s config.Settings, f Facts) string {
	data, err := json.Marshal(struct {
		Program   string
		Driver    any
		Install   any
		CUDA      any
		Cache     string
		Host      HostFacts
		Container ContainerFacts
	}{program, s.Driver, s.Install, s.CUDA, s.Cache.Dir, f.Host, f.Container})
	if err != nil {
		return "" // cannot be: all of it is plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
