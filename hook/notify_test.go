package hook

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func TestRootIsToldOnceOfEachReasonAndOfItsEnd(t *testing.T) {
	conf, state := configOf(t)
	dir := t.TempDir()
	box := filepath.Join(dir, "box")
	defer func(was string) { mailer = was }(mailer)
	mailer = filepath.Join(dir, "sendmail")
	require.NoError(t, os.WriteFile(mailer, []byte("#!/bin/sh\n[ \"$1 $2\" = '-t -oi' ] && cat >>"+box+"\n"), 0o755))
	log, err := say.New(os.Stderr, "text", "error")
	require.NoError(t, err)
	end := func(change func(*run)) string {
		t.Helper()
		_ = os.Remove(box)
		r := newRun(Event{101, PhasePostStart}, Options{Config: conf, Log: log})
		r.settings, err = conf.For(101)
		require.NoError(t, err)
		r.trace.Settings = r.settings.Redacted()
		r.trace.Plan.Wanted = "580.142"
		change(r)
		r.notify(t.Context())
		text, _ := os.ReadFile(box)
		return string(text)
	}
	failed := func(reason string) func(*run) {
		return func(r *run) {
			r.trace.Result, r.trace.Reason, r.trace.Hint = Failed, reason, "pct resize VMID rootfs +2G"
		}
	}
	well := func(r *run) { r.trace.Result = Skipped }

	require.Empty(t, end(well), "nothing was wrong")
	said := end(failed("no room"))
	require.Contains(t, said, "Subject: pve-nvidia-hook: container 101 on ")
	require.Contains(t, said, "\nno room\n")
	require.Contains(t, said, "What to do: pct resize 101 rootfs +2G\n")
	require.Empty(t, end(failed("no room")), "once")
	require.Contains(t, end(failed("no network")), "\nno network\n")
	require.Empty(t, end(func(r *run) { failed("x")(r); r.Asked = true }), "whoever asked for it sees it")
	require.Contains(t, end(well), "Container 101 has driver 580.142.\n\nBefore: no network\n")
	require.Empty(t, end(well), "once")
	left, err := filepath.Glob(filepath.Join(state, "mailed", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(state, "mailed", "101.json")}, left)

	// A mailer that fails is tried again.
	require.NoError(t, os.WriteFile(mailer, []byte("#!/bin/sh\nexit 75\n"), 0o755))
	require.Empty(t, end(failed("no room")))
	require.NoError(t, os.WriteFile(mailer, []byte("#!/bin/sh\ncat >>"+box+"\n"), 0o755))
	require.Contains(t, end(failed("no room")), "no room")
	require.Empty(t, end(func(r *run) { failed("other")(r); r.trace.Settings.Notify.Mail = false }), "turned off")

	// A container that fails in other words each time.
	mails := 0
	for n := range 50 {
		if end(failed(fmt.Sprintf("nvidia-smi says %d", n))) != "" {
			mails++
		}
	}
	require.Positive(t, mails)
	require.LessOrEqual(t, mails, 10)
	tomorrow := func(r *run) { failed("no room")(r); r.trace.At = time.Now().Add(25 * time.Hour) }
	require.NotEmpty(t, end(tomorrow))
	require.NotEmpty(t, end(failed("clock set back")), "a clock that was ahead counts for no longer")
}
