package doctor

import (
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// ofInterest is what of the kernel's log is read.
var ofInterest = lazy.Regexp(`(?i)nvrm|nvidia|lockdown: .*module|loading of .*module`)

var xid = lazy.Regexp(`NVRM: Xid \([^)]*\): ([0-9]+)`)

// lost is what the driver says of a GPU that it can no longer use (its
// open source: kernel_rc.c, osinit.c and osapi.c).
var lost = lazy.Regexp(`NVRM: .*(fallen off the bus|RmInitAdapter failed|not supported by open NVRM: nvidia\.ko)`)

// What an Xid means, by nverror.h of the driver's open source: a program's own
// fault (13 graphics exception, 31 memory fault, 43 and 45 its channel was ended),
// or that the GPU no longer answers (79 fallen off the bus, 119 and 120 GSP).
var (
	xidOfProgram = []string{"13", "31", "43", "45"}
	xidOfLost    = []string{"79", "119", "120"}
)

func checkLog(h *hostFacts, _ *guestFacts, out *findings) {
	if h.logError != nil {
		out.add(Unknown, "", "the kernel log cannot be read: %v", h.logError)
		return
	}
	var gone, errors []string
	for _, line := range h.log {
		m := xid().FindStringSubmatch(line)
		switch {
		case m == nil && lost().MatchString(line), m != nil && slices.Contains(xidOfLost, m[1]):
			gone = append(gone, line)
		case m != nil && !slices.Contains(xidOfProgram, m[1]):
			errors = append(errors, line)
		}
	}
	switch {
	case len(gone) > 0 && strings.Contains(gone[len(gone)-1], "by open"):
		out.add(Problem, "install the driver with its proprietary kernel module (run file: --kernel-module-type=proprietary; a package without -open in its name)",
			"the open kernel module does not support a GPU of this host: %s", gone[len(gone)-1])
	case len(gone) > 0:
		out.add(Problem, "reboot the host; if it happens again, check the card's power supply and seat, and try another driver version",
			"a GPU did not answer since the host was booted: %s", gone[len(gone)-1])
	case len(errors) > 0:
		out.add(Warning, "look the Xid number up in NVIDIA's list of Xid errors; a GPU that goes on with it needs a reset or a reboot",
			"the kernel log has %s of a GPU, the last one: %s", say.Count(len(errors), "error"), errors[len(errors)-1])
	}
	out.orOK("the kernel log has no errors of a GPU")
}
