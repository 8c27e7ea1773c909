package record

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/replace"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/trust"
)

// Runs keeps the last runs of containers below a state folder of the host.
type Runs struct{ State string }

const (
	keep       = 20       // runs of a container that are kept
	traceLimit = 16 << 20 // bytes of a file that are read
)

func (r Runs) folder(vmid int) string {
	return filepath.Join(r.State, "runs", strconv.Itoa(vmid))
}

// dull ends the name of the trace of a run that found nothing to do. With many
// starts, or the timer, these would soon push out the one that tells a story.
const dull = "-skipped.json"

// Save keeps the trace of a run, readable by root only, and drops the oldest: of
// those of skipped runs first, if there is more than one. The names are numbered,
// so that a clock that was wrong does not change their order.
func (r Runs) Save(vmid int, at time.Time, skipped bool, trace any) error {
	data, err := json.Marshal(trace)
	if err != nil {
		return fmt.Errorf("keep the run's trace: %w", err)
	}
	err = r.locked(vmid, func(dir string) error { return r.add(vmid, dir, at, skipped, append(data, '\n')) })
	if err != nil {
		return fmt.Errorf("keep the run's trace: %w", err)
	}
	return nil
}

// locked calls f while nobody else writes of the container. The container's own
// lock is not held by a run that finds another at work, or no driver wanted, and
// still keeps its trace.
func (r Runs) locked(vmid int, f func(dir string) error) error {
	dir, err := Below(r.State, "runs", strconv.Itoa(vmid))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockLimit)
	defer cancel()
	folder := flock.New(dir, flock.SetFlag(os.O_RDONLY|syscall.O_DIRECTORY))
	defer folder.Close()
	if _, err := folder.TryLockContext(ctx, 2*time.Millisecond); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("wait for another who writes in %s: %w", dir, err)
	} // NFS cannot lock a folder: there two that write at the same time spoil a trace
	return f(dir)
}

// add writes a trace under the next number and drops what is too many. A trace
// that a crash of the host takes away is no loss.
func (r Runs) add(vmid int, dir string, at time.Time, skipped bool, data []byte) error {
	names, err := r.List(vmid)
	if err != nil {
		return err
	}
	next := 1
	if len(names) > 0 {
		next = number(names[len(names)-1]) + 1
	}
	ending := ".json"
	if skipped {
		ending = dull
	}
	file := filepath.Join(dir, fmt.Sprintf("%08d-%s%s", next, at.UTC().Format("20060102T150405Z"), ending))
	if err := replace.File(file, filepath.Join(dir, newName), data, 0o600); err != nil {
		return err
	}
	names = append(names, file)
	isDull := func(name string) bool { return strings.HasSuffix(name, dull) }
	for len(names) > keep {
		at := slices.IndexFunc(names, isDull)
		if at < 0 || !slices.ContainsFunc(names[at+1:], isDull) {
			at = 0 // the newest of them is kept like any other: it tells when all was last well
		}
		if err := os.Remove(names[at]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop an old trace: %w", err)
		}
		names = slices.Delete(names, at, at+1)
	}
	return nil
}

// number is what the name of a trace begins with; 0 for one that an older version
// of this program has kept, which began it with the time.
func number(file string) int {
	digits, _, ok := strings.Cut(filepath.Base(file), "-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || len(digits) != 8 {
		return 0
	}
	return n
}

const (
	newName   = ".new"          // a file of a container's folder that is being written
	lockLimit = 2 * time.Second // a writer holds the folder for less than a millisecond
)

// List returns the kept traces of a container, oldest first.
func (r Runs) List(vmid int) ([]string, error) {
	entries, err := os.ReadDir(r.folder(vmid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list kept traces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "Z.json") || strings.HasSuffix(e.Name(), "Z"+dull) {
			names = append(names, filepath.Join(r.folder(vmid), e.Name()))
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
	})
	return names, nil
}

// Last reads the newest trace of a container into trace, and reports whether
// there is one. A trace that a crash of the host has left empty or torn is
// passed over.
func (r Runs) Last(vmid int, trace any) (bool, error) {
	names, err := r.List(vmid)
	if err != nil {
		return false, err
	}
	var first error
	for _, name := range slices.Backward(names) {
		data, err := trust.ReadFile(name, traceLimit)
		if err == nil {
			err = json.Unmarshal(data, trace)
		}
		if err == nil {
			return true, nil
		}
		if first == nil && !errors.Is(err, fs.ErrNotExist) { // dropped meanwhile
			first = fmt.Errorf("read the last trace %s: %w", name, err)
		}
	}
	return false, first
}

// Failure is remembered from one start to the next, so that what failed is not
// tried again at each of them.
type Failure struct {
	Count   int       `json:"count"` // in a row, with the same inputs
	At      time.Time `json:"at"`
	Next    time.Time `json:"next"`    // not tried again before
	Inputs  string    `json:"inputs"`  // a digest: other inputs are tried at once
	Seconds float64   `json:"seconds"` // that the last try took
	Reason  string    `json:"reason"`
	Hint    string    `json:"hint,omitempty"`
}

// dear is how many seconds a failure must have taken to hold back the next try: a
// start can bear a try that takes less.
const dear = 30

// HoldsBack reports whether the next start waits because of the failure.
func (f Failure) HoldsBack(now time.Time) bool {
	return f.Seconds >= dear && now.Before(f.Next) && !now.Before(f.At) // else the clock was set back: the delay means nothing
}

// Delays between tries after failures.
const (
	firstDelay = 5 * time.Minute
	mostDelay  = 24 * time.Hour
)

// failureFile lies apart from the traces.
func (r Runs) failureFile(vmid int) string {
	return filepath.Join(r.State, "failures", strconv.Itoa(vmid)+".json")
}

// Failure returns what is remembered, or nil.
func (r Runs) Failure(vmid int) *Failure {
	data, err := trust.ReadFile(r.failureFile(vmid), traceLimit)
	if err != nil {
		return nil
	}
	var f Failure
	if json.Unmarshal(data, &f) != nil || f.Count < 1 {
		return nil
	}
	return &f
}

// Failed remembers a failure, whose Count and Next it sets. The delay doubles with
// each one in a row.
func (r Runs) Failed(vmid int, f Failure) error {
	f.Count = 1
	if last := r.Failure(vmid); last != nil && last.Inputs == f.Inputs {
		f.Count = last.Count + 1
	}
	delay := mostDelay
	if f.Count < 10 {
		delay = min(mostDelay, firstDelay<<(f.Count-1))
	}
	f.Next = f.At.Add(delay)
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("remember the failure: %w", err)
	}
	err = r.locked(vmid, func(string) error {
		dir, err := Below(r.State, "failures")
		if err != nil {
			return err
		}
		return replace.File(r.failureFile(vmid), filepath.Join(dir, strconv.Itoa(vmid)+newName), data, 0o600)
	})
	if err != nil {
		return fmt.Errorf("remember the failure: %w", err)
	}
	return nil
}

// Succeeded forgets a failure.
func (r Runs) Succeeded(vmid int) {
	_ = os.Remove(r.failureFile(vmid)) // absent is the usual case
}
