package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// group names Go tests that show a promise.
type group struct {
	part, name string
	pkg        string
	tests      string // for go test -run
	env        bool   // in the long form
}

var groups = []group{
	{"downloads", "bad answers, next URL helps", "internal/cache", "TestBadServersAreNamedAndTheNextURLHelps|TestFailingServerIsAskedAgain|TestUnknownLengthIsNoHindrance", false},
	{"downloads", "cut at each tenth, changed between parts", "internal/cache", "TestTransferCutAtEachTenthGoesOn|TestFileThatChangesBetweenPartsIsFetchedWhole|TestLeftoverPartIsResumed|TestCancelledTransferIsResumedLater", false},
	{"downloads", "checksums", "internal/cache", "TestChecksumRules|TestChecksumBesideTheFileCounts|TestPinThatDiffersFromTheFileIsRefused", false},
	{"downloads", "hostile payloads", "internal/cache", "TestHostilePayloadsAreRefused", false},
	{"downloads", "hostile archives, bombs, false sizes", "internal/runfile", "TestHostileMembersAreRefused|TestSparseClaimIsRefused|TestBombEndsAtTheLimit|TestWindowThatGrowsIsRefused|TestMemoryIsAFixedAmountAndTheWindow|TestTruncationAnywhereIsNoticed|TestWrongContentIsNamed|TestModesAreMadeHarmless", false},
	{"downloads", "killed at any moment", "internal/cache", "TestKilledAtAnyMomentHeals|TestKilledDownloadIsResumedByTheNext", false},
	{"disks", "host's cache full, read-only, foreign", "internal/cache", "TestFullDiskIsToldBeforeTheDownload|TestDiskThatFillsUpLeavesNothing|TestReadOnlyFolderServesWhatItHas|TestFoldersOfOthersAreRefused", false},
	{"disks", "with real containers", "hook", "TestFullDiskIsSaidBeforeAnythingIsWritten|TestFault", true},
	{"hostile", "laid in the way, raced, records, output, wild programs", "hook", "TestNothingLaidInTheWayLeadsToTheHost|TestARaceForThePlacesLeadsNowhere|TestRecordsThatAreAnAttackAreNotBelieved|TestARecordCannotHaveOtherFilesRemoved|TestWhatTheContainerSaysIsMadeHarmless|TestProgramsThatGoWildAreEnded|TestContainerRootCannotChangeTheCacheDuringAnInstall|TestAFileSystemThatNeverAnswersIsCutOff", true},
	{"hostile", "files, mounts and processes of a container", "internal/lxc", "TestLinksStayInsideTheRoot|TestOnlyRegularFilesAreOpened|TestTheHostsFilesInABindMountAreOutOfReach|TestARaceOfFolderAndLinkLeadsNowhere|TestContainerRootCanUseTheTreeAndChangeNothing|TestARaceForTheTargetLeadsNowhere|TestEndlessOutputCostsNoMemory|TestLinesAreHarmless|TestADeadlineEndsAllThatWasStarted", false},
	{"permissions", "of the host's folders and files", "hook", "TestPermission", true},
	{"permissions", "of configuration, cache and locks", "internal/config", "TestFileThatOthersMayWriteIsRefused|TestFileOfAnotherUserIsRefused", false},
	{"permissions", "of the cache", "internal/cache", "TestFoldersOfOthersAreRefused|TestTreeOfOthersIsNotTrusted|TestOddFilesAreRefused|TestMetadataOfOthersProvesNothing|TestPartOfOthersIsNotResumed", false},
	{"permissions", "of the keys of NVIDIA's repository", "internal/cuda", "TestCacheThatOthersCouldHaveWrittenIsRefused|TestKeptFilesHaveTheModesOfTheCache", false},
}

// goTests runs the Go tests of a part, each of which counts as a try with all
// its subtests.
func goTests(part string) func(context.Context, *torture) error {
	return func(ctx context.Context, t *torture) error {
		for _, g := range groups {
			if g.part != part {
				continue
			}
			if err := g.run(ctx, t); err != nil {
				return err
			}
		}
		return nil
	}
}

func (g group) run(ctx context.Context, t *torture) error {
	args := []string{"test", "-json", "-timeout", "60m", fmt.Sprintf("-count=%d", t.count), "-run", "^(" + strings.ReplaceAll(g.tests, "|", ".*|") + ".*)$",
		"github.com/thinkheads-ai/pve-nvidia-hook/" + g.pkg}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "PVE_NVIDIA_HOOK_NEED_LXC=1")
	if g.env {
		cmd.Env = append(cmd.Env, "PVE_NVIDIA_HOOK_TORTURE=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := t.table.at(g.part, g.name)
	said, failed := map[string]*strings.Builder{}, ""
	lines := bufio.NewReaderSize(out, 1<<20)
	for d := json.NewDecoder(lines); ; {
		var e struct{ Action, Test, Output string }
		if d.Decode(&e) != nil {
			break
		}
		switch {
		case e.Action == "output":
			if said[e.Test] == nil {
				said[e.Test] = &strings.Builder{}
			}
			if b := said[e.Test]; b.Len() < 4000 {
				b.WriteString(e.Output)
			}
			if e.Test == "" && len(failed) < 4000 {
				failed += e.Output
			}
		case e.Test == "":
		case e.Action == "pass":
			r.tries++
		case e.Action == "fail":
			r.tries++
			text := ""
			if said[e.Test] != nil {
				text = said[e.Test].String()
			}
			r.failures = append(r.failures, e.Test+"\n"+text)
		}
	}
	if err := cmd.Wait(); err != nil && len(r.failures) == 0 {
		r.failures = append(r.failures, fmt.Sprintf("go test: %v\n%s", err, failed))
	}
	t.say("%s, %s: %d tries, %d failures", g.part, g.name, r.tries, len(r.failures))
	return nil
}
