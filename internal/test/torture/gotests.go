package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// group names Go tests that show a promise.
type group struct {
	part, name string
	pkg        string
	tests      string // beginnings of their names; each must find one that is run
	form       form
}

type form int

const (
	short form = iota
	long       // as the tests do it with PVE_NVIDIA_HOOK_TORTURE
	raced      // with Go's race detector, also in the program that they call
)

var groups = []group{
	{"downloads", "bad answers, next URL helps", "internal/cache", "TestBadServersAreNamedAndTheNextURLHelps|TestSlowServerIsGivenUpForTheNextURL|TestDownloadEndsAtItsLimitAndIsResumed|TestFailingServerIsAskedAgain|TestUnknownLengthIsNoHindrance", short},
	{"downloads", "cut at each tenth, changed between parts", "internal/cache", "TestTransferCutAtEachTenthGoesOn|TestFileThatChangesBetweenPartsIsFetchedWhole|TestLeftoverPartIsResumed|TestCancelledTransferIsResumedLater", short},
	{"downloads", "checksums", "internal/cache", "TestChecksumRules|TestChecksumBesideTheFileCounts|TestPinThatDiffersFromTheFileIsRefused", short},
	{"downloads", "hostile payloads", "internal/cache", "TestHostilePayloadsAreRefused", short},
	{"downloads", "hostile archives, bombs, false sizes", "internal/runfile", "TestHostileMembersAreRefused|TestSparseClaimIsRefused|TestBombEndsAtTheLimit|TestWindowThatGrowsIsRefused|TestMemoryIsAFixedAmountAndTheWindow|TestTruncationAnywhereIsNoticed|TestWrongContentIsNamed|TestModesAreMadeHarmless", short},
	{"downloads", "killed at any moment", "internal/cache", "TestKilledAtAnyMomentHeals|TestKilledDownloadIsResumedByTheNext", short},
	{"disks", "host's cache full, read-only, foreign", "internal/cache", "TestFullDiskIsToldBeforeTheDownload|TestDiskThatFillsUpLeavesNothing|TestReadOnlyFolderServesWhatItHas|TestFoldersOfOthersAreRefused", short},
	{"disks", "with real containers", "hook", "TestFullDiskIsSaidBeforeAnythingIsWritten|TestFault", long},
	{"hostile", "laid in the way, raced, records, output, wild programs", "hook", "TestNothingLaidInTheWayLeadsToTheHost|TestNothingLaidInTheWayOfTheToolkitLeadsToTheHost|TestARaceForThePlacesLeadsNowhere|TestRecordsThatAreAnAttackAreNotBelieved|TestARecordCannotHaveOtherFilesRemoved|TestWhatTheContainerSaysIsMadeHarmless|TestProgramsThatGoWildAreEnded|TestContainerRootCannotChangeTheCacheDuringAnInstall|TestAFileSystemThatNeverAnswersIsCutOff|TestAFileSystemThatCannotBeFoundHoldsNobodyUp|TestAContainerWhoseRootIsServedHoldsNobodyUp|TestAFolderThatIsHeldHoldsNobodyUp|TestAContainerThatHangsIsNoMatterOfOthers", long},
	{"hostile", "files, mounts and processes of a container", "internal/lxc", "TestLinksStayInsideTheRoot|TestOnlyRegularFilesAreOpened|TestTheHostsFilesInABindMountAreOutOfReach|TestARaceOfFolderAndLinkLeadsNowhere|TestContainerRootCanUseTheTreeAndChangeNothing|TestARaceForTheTargetLeadsNowhere|TestEndlessOutputCostsNoMemory|TestLinesAreHarmless|TestAFileSystemThatNeverAnswersIsCutOff|TestAReadThatIsNeverAnsweredEndsWithItsContext|TestOddAnswersOfAMonitorAreNotBelieved|TestADeadlineEndsAllThatWasStarted|TestAnInitThatLeaves|TestNoContainerIsGiven|TestAProcessThatIsStuckInExec|TestAnInitThatIsStuckInExec|TestACommandCannotLeave", short},
	{"hostile", "what the processes of a container tell", "internal/inuse", "TestTenThousandProcessesThatLie|TestDeepAndManyCgroupsEnd|TestAProcessStuckInExecHoldsNobodyUp", short},
	{"hostile", "a worker that does not end, or is killed", "internal/worker", "Test", short},
	{"permissions", "of the host's folders and files", "hook", "TestPermission", long},
	{"permissions", "of configuration, cache and locks", "internal/config", "TestFileThatOthersMayWriteIsRefused|TestFileOfAnotherUserIsRefused", short},
	{"permissions", "of the cache", "internal/cache", "TestFoldersOfOthersAreRefused|TestTreeOfOthersIsNotTrusted|TestOddFilesAreRefused|TestMetadataOfOthersProvesNothing|TestPartOfOthersIsNotResumed", short},
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

// race runs all tests of the packages in which something goes on at the same time
// as something else. Those of hook call a program that has the detector too.
func race(ctx context.Context, t *torture) error {
	for _, pkg := range []string{"internal/lock", "internal/worker", "internal/record", "internal/metrics", "internal/cache", "internal/config",
		"internal/runfile", "internal/cuda", "internal/lxc", "hook"} {
		if err := (group{"race", "all tests of " + pkg, pkg, "Test", raced}).run(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (g group) run(ctx context.Context, t *torture) error {
	args := []string{"test", "-json", "-timeout", "60m", fmt.Sprintf("-count=%d", t.count), "-run", "^(" + g.tests + ")",
		"github.com/thinkheads-ai/pve-nvidia-hook/" + g.pkg}
	env := append(os.Environ(), "PVE_NVIDIA_HOOK_NEED_LXC=1")
	switch g.form {
	case long:
		env = append(env, "PVE_NVIDIA_HOOK_TORTURE=1")
	case raced:
		args = slices.Insert(args, 1, "-race")
		env = append(env, "CGO_ENABLED=1")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = env
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := t.table.at(g.part, g.name)
	said, failed, ran := map[string]*strings.Builder{}, "", " "
	lines := bufio.NewReaderSize(out, 1<<20)
	for d := json.NewDecoder(lines); ; {
		var e struct{ Action, Test, Output string }
		if d.Decode(&e) != nil {
			break
		}
		switch {
		case e.Action == "build-output":
			failed += e.Output
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
			ran += e.Test + " "
		case e.Action == "skip":
			t.say("%s, %s: %s was skipped", g.part, g.name, e.Test)
		case e.Action == "fail":
			r.tries++
			ran += e.Test + " "
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
	for name := range strings.SplitSeq(g.tests, "|") {
		if len(r.failures) == 0 && !strings.Contains(ran, " "+name) {
			r.failures = append(r.failures, fmt.Sprintf("no test of %s was run that begins with %s", g.pkg, name))
		}
	}
	t.say("%s, %s: %d tries, %d failures", g.part, g.name, r.tries, len(r.failures))
	return ctx.Err()
}
