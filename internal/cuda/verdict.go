package cuda

import (
	"regexp"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// verdict is what a package tool's work came to, as far as the repository goes.
type verdict int

const (
	fine        verdict = iota
	lockedOut           // another package tool is at work
	unreachable         // no network, no name resolution, no server
	brokenIndex         // the server's files do not fit together
	badKey              // signature missing, unknown or wrong
	oldKey              // signed with a key that this apt believes no longer
	noRoom              // the disk is full
	unsolvable          // packages that do not go together or are not there
	toolFailed          // the tool cannot work at all
)

// cause is how a package tool words a verdict.
type cause struct {
	words func() *regexp.Regexp
	verdict
}

// firstCause finds the first cause of a list that a line tells, and that line; -1
// where none does.
func firstCause(causes []cause, lines []string) (verdict, int) {
	for _, c := range causes {
		if at := slices.IndexFunc(lines, func(l string) bool { return c.words().MatchString(l) }); at >= 0 {
			return c.verdict, at
		}
	}
	return toolFailed, -1
}

// blame is the error for a verdict, with a hint that fits the cause. about is
// what the tool said.
func (j *job) blame(v verdict, what, about string) error {
	about = say.Clean(about, 400)
	switch v {
	case lockedOut:
		return hint.Errorf("let the other package tool in the container come to its end, then run this again", "%s in the container: %s", what, about)
	case unreachable:
		return hint.Errorf(listsHint, "%s in the container: %s", what, about)
	case brokenIndex:
		return hint.Errorf("the server's files do not fit together: try later, or set cuda.repo_url to another mirror",
			"the package index of %s is broken: %s", j.repo, about)
	case oldKey:
		return hint.Errorf("set cuda.repo_url to NVIDIA's folder for the container's own operating system, or leave it empty: newer folders, such as debian13, have a newer key",
			"the key of the repository %s is too old for the apt in the container: %s", j.repo, about)
	case badKey:
		return hint.Errorf("is "+j.repo+" really NVIDIA's? A mirror has to have NVIDIA's key as well. If NVIDIA has changed it, remove the package cuda-keyring in the container",
			"what %s has is not signed with the key of the repository: %s", j.repo, about)
	case noRoom:
		return hint.Errorf(j.w.diskHint(), "%s: the container's disk is full: %s", what, about)
	case unsolvable:
		return hint.Errorf("look with the same command in the container; cuda.packages and cuda.toolkit name what is installed", "%s in the container: %s", what, about)
	}
	return hint.Errorf("run it in the container and put right what it says", "%s in the container: %s", what, about)
}
