package hook

import (
	"context"
	"errors"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// An error of a run is a refusal, an interruption, or a failure of what was tried. The
// worker hands each of them to its supervisor as a failure.

// refusal marks an error before which nothing was tried.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refused(err error) bool {
	var f *failure
	return errors.As(err, new(*refusal)) || errors.As(err, &f) && f.Refused
}

// interrupted is the error of a run that was told to end, or whose time was over. Its
// text names what the run was doing, without the library's "context canceled".
type interrupted struct{ error }

func (i interrupted) Unwrap() error { return i.error }

func (i interrupted) Error() string {
	text := i.error.Error()
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if text == ended.Error() {
			return "interrupted"
		}
		text = strings.ReplaceAll(text, ": "+ended.Error(), "")
	}
	return "interrupted: " + text
}

// failure is an error that came from another process.
type failure struct {
	Text, Advice string
	Refused      bool // nothing was tried
	Interrupted  bool // whoever waits for the run has ended it
}

func (f *failure) Error() string { return f.Text }

// Is lets errors.Is find an interruption.
func (f *failure) Is(target error) bool { return f.Interrupted && target == context.Canceled }

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	return &failure{err.Error(), hint.Of(err), errors.As(err, new(*refusal)), errors.Is(err, context.Canceled)}
}

// asInterrupted marks an error that comes from the end of ctx. A worker has marked its
// own errors already.
func asInterrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.As(err, new(interrupted)) || errors.As(err, new(*failure)) || !errors.Is(err, ctx.Err()) {
		return err
	}
	return interrupted{err}
}
