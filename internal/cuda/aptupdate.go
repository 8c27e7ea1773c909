package cuda

import (
	"context"
	"fmt"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// complaint is how apt begins a line about a problem; apt 3 spells the words out.
var complaint = lazy.Regexp(`^(E|W|Err|Error|Warning)(:| )`)

var (
	keyWords = lazy.Regexp(`NO_PUBKEY|Missing key|is not signed|EXPKEYSIG|KEYEXPIRED|REVKEYSIG|BADSIG|signature verification|signatures (couldn't|could not|were) |GPG error|OpenPGP signature|gpgv|sqv`)
	// apt 3 asks sqv, whose policy ends SHA-1 in February 2026. NVIDIA's key
	// 3bf863cc (Debian up to 12, Ubuntu up to 24.04) is bound with it.
	oldKeyWords = lazy.Regexp(`SHA1 is not considered secure|Policy rejected`)
	indexWords  = lazy.Regexp(`Hash Sum mismatch|Hashes of|unexpected size|File too large|does not have a Release file|no longer has a Release|is expired|is not valid yet|Clearsigned file|NODATA|\b40[34] |Could not open file|Unable to parse|Splitting up|Encountered a section|Problem with MergeList|compressed data|decompress|looks corrupt|truncated`)
	netWords    = lazy.Regexp(`Could not connect|Unable to connect|Cannot initiate the connection|Could not resolve|failure resolving|wicked happened|unreachable|No route to host|Connection (failed|refused|reset|timed out)|timed out|Could not handshake|Undetermined Error`)
	// Of these the whole beginning counts: a reason that a server gives stands further on.
	lockWords   = lazy.Regexp(`^\w+: (Could not get lock|Unable to lock|Unable to acquire)`)
	twoKeys     = lazy.Regexp(`^\w+: Conflicting values set for option Signed-By`)
	withinAYear = lazy.Regexp(`^\w+: .*Policy will reject signature within a year`)
	afterwards  = lazy.Regexp(`^\w+: (Target .* is configured multiple times in |Some index files failed)`)
)

// aptCauses: without network apt says in the end that the repository "does not have
// a Release file", so what it says of the network comes first.
var aptCauses = []cause{{oldKeyWords, oldKey}, {keyWords, badKey}, {netWords, unreachable}, {indexWords, brokenIndex}}

// judgeUpdate reads what apt-get update said. apt ends with 0 when it could not
// reach a server, so the words count, not the status. Other repositories of the
// container that fail are no reason to stop; others names them.
func judgeUpdate(code int, lines []string, repo string) (v verdict, about string, others []string) {
	ours := strings.TrimRight(repo, "/")
	var mine, rest []string
	var last *[]string // where the reason of the latest "Err:" line belongs; it follows it, indented
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "  ") && last != nil:
			if l = strings.TrimSpace(l); l != "" {
				(*last)[len(*last)-1] += ": " + l
			}
			continue
		case strings.HasPrefix(l, "Get:") || strings.HasPrefix(l, "Hit:") || strings.HasPrefix(l, "Ign:"):
			last = nil
			continue
		case !complaint().MatchString(l):
			continue
		case lockWords().MatchString(l):
			return lockedOut, l, nil
		case twoKeys().MatchString(l):
			return toolFailed, l, nil
		case afterwards().MatchString(l), withinAYear().MatchString(l): // all is well until then
			continue
		}
		to := &rest
		if strings.Contains(l, ours) {
			to = &mine
		}
		if strings.HasPrefix(l, "Err:") {
			last = to
		}
		// The address may hold any word, a port any number.
		*to = append(*to, strings.ReplaceAll(l, ours, "the repository"))
	}
	if len(mine) > 0 {
		if v, at := firstCause(aptCauses, mine); at >= 0 {
			return v, mine[at], rest
		}
		return unreachable, mine[len(mine)-1], rest
	}
	if code != 0 {
		for _, l := range rest {
			if strings.HasPrefix(l, "E") && !strings.Contains(l, "://") {
				return toolFailed, l, rest
			}
		}
		if len(rest) == 0 {
			return toolFailed, fmt.Sprintf("status %d", code), nil
		}
	}
	return fine, "", rest
}

// update fetches the package lists. It waits for another apt as for a server.
func (a *apt) update(ctx context.Context) error {
	var others []string
	err := a.fetchLists(ctx, func() (v verdict, about string, err error) {
		// One retry of apt's own: it pauses longer each time, and is tried again here.
		out, err := a.run(ctx, a.command("update", "-o", "Acquire::Retries=1")...)
		if err != nil {
			return toolFailed, "", err
		}
		v, about, others = judgeUpdate(out.code, out.lines, a.repo)
		return v, about, nil
	})
	if err == nil && len(others) > 0 {
		a.log.Warnf("apt-get update in the container complains of other repositories: %s", say.Clean(others[0], 300))
	}
	return err
}
